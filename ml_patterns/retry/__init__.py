"""Pattern 4, retry with exponential backoff: what is transient, how long to wait, when to stop."""
