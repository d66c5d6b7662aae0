"""From features to a trained model that can be made again.

Training sets (a spine, a feature service and a split by time, pinned as a lake table),
runs (what was tried: parameters, metrics, environment, code, data, artifacts), trainers,
and the durable job that joins them. Look first at ``training_sets.py`` and ``tracking/runs.py``.
"""
