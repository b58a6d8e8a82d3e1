"""Repositories on the Hub: rights, one commit per push, retries."""
