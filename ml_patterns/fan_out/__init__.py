"""Pattern 2, fan-out / fan-in: features -> one model per region -> leaderboard."""
