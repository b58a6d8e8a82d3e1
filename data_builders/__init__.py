"""From questions to a dataset of pairs: prompts -> targets -> speech -> dataset. Knows nothing of training."""
