"""The lake on real technology: DuckDB with DuckLake, local directories, S3."""
