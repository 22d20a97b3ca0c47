"""A Dagster project that holds one pipeline of ml_patterns: YAML and SQL."""
