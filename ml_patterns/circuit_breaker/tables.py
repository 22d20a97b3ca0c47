"""Operational tables of this room."""
