"""The schema of the operational database, revision by revision."""
