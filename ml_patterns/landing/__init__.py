"""A database table as the source: its changes land as files, and everything after is one path."""
