"""What decides: pure functions and tables. No I/O, no clock, no randomness: those are arguments."""
