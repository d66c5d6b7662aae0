"""What everything stands on: actions and the door, calls, errors, ids, settings, the
metadata database, durable jobs, the event outbox, telemetry. It knows no capability.

Look first at ``door.py``: the one way in.
"""
