"""What there is, whose it is, and what flows into what.

Everything that has a name is an *asset* here: sources, tables, feature views, runs, model
versions, endpoints, changes. An asset has an owner, a classification, a region, tags and
versions; typed edges between assets are the lineage. *Definitions* are the assets that
people declare in their own repository: they are planned, applied and kept in versions.

Start with ``assets.Catalog`` (record, link, search, walk) and ``definitions.Definitions``.
"""
