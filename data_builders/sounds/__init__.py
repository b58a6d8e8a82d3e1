"""Data sets of questions about sounds: their rows, arguments and card."""
