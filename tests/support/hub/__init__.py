"""A Hub to test against: a real HTTP server with the part of the protocol that the Hugging Face libraries use."""
