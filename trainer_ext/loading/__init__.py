"""Student, adapter and teacher weights into memory."""
