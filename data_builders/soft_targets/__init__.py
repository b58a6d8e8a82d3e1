"""A teacher's top-k log-probabilities at every response token."""
