"""Getting data in: sources are read, typed, held to their contracts, and written once.

Look first at ``pipelines.py``: what one load does, step by step.
"""
