"""The Dagster UI, clicked through in a real browser."""
