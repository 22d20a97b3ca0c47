"""Keeping an installation alive: alerts, backup and restore, retention."""
