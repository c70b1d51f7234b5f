"""The guard: the small process that owns the workers, and the agent's side of the conversation with it."""
