"""Assets, definitions, lineage."""
