"""Tree ensembles as flat arrays, and the compiled loops that score them.

An ONNX graph that is one ensemble of decision trees is read into an ``Ensemble``
(``graphs``), laid out for the machine (``masks`` for trees of few leaves, ``walks`` for
all others) and scored by ``kernels_trees``. What is not understood is refused with
``NotCompilable``, so that the caller can leave the graph to another runtime.
"""
