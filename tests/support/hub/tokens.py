"""Tokens that the Hub for tests knows."""

WRITE, READ = "hf_ThisTokenMustNeverLeaveMemory", "hf_ThisTokenMayOnlyRead"
FINE_GRAINED = "hf_ThisTokenIsFineGrainedAndMayOnlyRead"
ROLES = {WRITE: "write", READ: "read", FINE_GRAINED: "fineGrained"}
