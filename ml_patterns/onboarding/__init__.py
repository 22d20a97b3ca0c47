"""Bring your own events: from some landed files to a pipeline that validates and runs."""
