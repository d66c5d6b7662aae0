"""Streams: pushed and consumed events on their way to the online store and to the lake.

An event stands first in the event log. From there whoever comes first applies it to the
online rows of every view of its stream, and the worker moves it to the lake; both remember
the position up to which they are done in the same write as its effect, so that each event
counts once, whatever is killed when. ``taking`` decides what an event is (taken, late,
dead) for both, from nothing but the log; ``applying`` is the way online, ``landing`` the
way to the lake; ``streams`` is what the rest of the room calls.
"""
