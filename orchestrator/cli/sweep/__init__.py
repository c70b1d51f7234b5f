"""Sweeps: `command` is what `orchestrate -m` does, with `launcher` as Hydra's; `show` is `orchestratectl sweep`."""
