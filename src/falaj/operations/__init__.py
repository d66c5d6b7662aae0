"""Service management: changes that need an approval, alerts, incidents, notifications.

A *change* is asked for by one principal and approved by another; what it changes happens
in the approval's own transaction. An *alert* says that something is not as it should be,
once while it lasts. An *incident* is opened from a critical alert, with a priority and a
timeline. All three are assets of the catalogue, so who may see what follows from the
asset that they are about.

Start with ``changes.Changes``, ``alerts.Alerts`` and ``incidents.Incidents``.
"""
