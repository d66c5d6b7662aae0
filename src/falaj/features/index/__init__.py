"""The offline index of a view: sorted runs that compiled kernels search and gather from.

``runs`` holds what a run is, ``entities`` finds an entity's number, ``building`` makes a
run from events, ``files`` keeps it, ``indexes`` knows which runs answer for a snapshot.
The kernels stand in ``kernels_*``. An index can be rebuilt from the lake at any time.
"""
