"""The gates, one module for each family, and the rules that policies declare for them.

A gate takes a version with the rows that it is judged on (``examined.py``) and gives a result with
its numbers. Where a number is an estimate, the gate judges its interval: a version fails when it is
surely beyond a limit, or, where a rule asks for that, when it is not surely within.
"""
