"""The distillation loss; imports torch alone."""
