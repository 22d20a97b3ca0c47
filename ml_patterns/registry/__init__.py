"""Model versions, decisions, reviews, champions and the audit log."""
