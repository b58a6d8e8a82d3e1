"""Memory of a run: planned from configs alone, and measured."""
