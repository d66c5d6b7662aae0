"""Features: one definition, two executions.

Definitions (``model``) compile to views (``views``). Offline, ``pointintime``,
``windows`` and ``frequencies`` answer from an ``index`` what was known at each row of a
spine, and ``offline`` makes frames of it; online, ``rows`` and ``tiles``
keep the latest values and partial aggregates in an ``OnlineStore``; ``store`` joins the
two, ``parity`` proves that they agree. What a feature means is written in the docstrings
of ``pointintime`` and ``windows``, and obeyed by both.
"""
