"""Sources of target distributions: a model, the student without its adapters, or stored probabilities of a model."""
