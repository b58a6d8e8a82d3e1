"""Answers -> scores -> report."""
