"""Pattern 3, conditional branching: evidence -> verdict -> deploy, review or reject."""
