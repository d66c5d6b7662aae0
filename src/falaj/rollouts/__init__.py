"""Rollouts: which variant a unit meets, what it changed, and when that is sure.

Here stand the parts without input or output: assignment (``layers``), group sequential designs,
confidence sequences, tests of events, effects from mergeable sums, sample-ratio mismatch,
bandits and planning. Look first at ``sequences.py``.
"""
