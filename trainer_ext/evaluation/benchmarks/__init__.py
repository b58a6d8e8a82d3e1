"""Benchmarks: a data set, its prompt and its evaluator."""
