"""Whom the student learns from: a model, the student itself with its adapters off, or what was stored of a model."""
