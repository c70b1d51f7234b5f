"""What does: processes, Redis, files. It decides nothing that `core` could decide."""
