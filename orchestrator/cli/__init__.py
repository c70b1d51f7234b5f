"""The faces: the Hydra app, the control command, the terminal. Only here: Hydra and DictConfig."""
