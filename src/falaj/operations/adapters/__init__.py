"""Adapters of the ports of ``operations``, one file for each technology."""
