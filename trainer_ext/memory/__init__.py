"""How much memory a run takes, told from configs alone, and what it took."""
