"""`python -m ml_patterns` is `ml-patterns`."""

from ml_patterns.cli import app

app()
