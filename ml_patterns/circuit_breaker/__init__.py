"""Pattern 5, circuit breaker: a model client with fallbacks -> predictions."""
