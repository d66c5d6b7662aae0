"""MLflow's REST API, so that its unmodified client works against Falaj.

A route here turns a request into calls of actions, and their answers into MLflow's documents;
what may be done, and what is recorded, the door decides as for every other caller. Look first
at ``routes.py`` (how a request finds its route) and ``asked.py`` (what a route is given).
"""
