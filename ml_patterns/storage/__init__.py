"""Where things are kept: DuckDB warehouse, operational database, artifact store."""
