"""Spoken questions: synthesis, augmentation, verification."""
