"""Answers requests: endpoints and their releases, the routing table that all workers share,
the compiled request plan, the inference application and the prediction log.

Look first at ``plan.py``: what happens between a request's bytes and its answer. Nothing
on that path touches the metadata database.
"""
