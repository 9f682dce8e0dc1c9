"""Usage, what it costs, and what may be used. Knows nothing of HTTP."""
