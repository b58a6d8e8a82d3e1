"""Questions: reading, filtering, near duplicates, channels."""
