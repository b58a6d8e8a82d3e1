"""Calls to servers: concurrency, retries, and the meaning of an error for a row."""
