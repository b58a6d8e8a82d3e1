"""A teacher's answers to the questions: from a model in memory or from a server."""
