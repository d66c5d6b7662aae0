"""The metadata database's schema, step by step (Alembic).

A change of a table is a new module in ``versions/``; a test compares what the steps build
with what the rooms declare in their ``tables.py``.
"""
