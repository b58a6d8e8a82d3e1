"""Evaluators: answered items -> points."""
