"""Pattern 1, incremental processing: landed files -> aggregates -> features."""
