"""Further ways to tell the team: tickets, and whatever apprise knows."""
