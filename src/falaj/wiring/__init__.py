"""The one place where adapters meet ports, and rooms meet each other.

Everything is built here by constructors, from the settings, in the order of the flow;
nothing else in the package imports an adapter. Look first at ``assembly.py``.
"""
