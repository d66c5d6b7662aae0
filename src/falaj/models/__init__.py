"""What may be served, and why.

Models and their versions, the signed and encrypted bundle that each version is, the gates
that it passed, its card, and who moved it to which stage, when and why. Look first at
``registry.py``.
"""
