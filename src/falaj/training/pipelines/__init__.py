"""Pipelines: Python functions with declared inputs and outputs, run durably as one graph.

A pipeline is declared in the user's repository and applied through the door. A run executes its
steps in processes of their own, records each step once, and goes on after a crash where it stood.
"""
