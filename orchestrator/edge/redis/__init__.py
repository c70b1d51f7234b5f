"""The rendezvous on Redis: one atomic Lua command a file, and typed wrappers around them."""
