"""Rollouts: which variant a unit meets, what it changed, and when that is sure.

A *rollout* is declared, started by an approved change, and tries challengers against the
champion of an endpoint: as a shadow, in steps, as a fixed split, as a bandit, or segment by
segment. ``model.py`` has the words. Who meets what is serving's (``serving.layers``). Group
sequential designs, confidence sequences, tests of events, effects from mergeable sums,
sample-ratio mismatch, bandits and planning are parts without input or output. Look first at
``model.py``, then ``sequences.py``.
"""
