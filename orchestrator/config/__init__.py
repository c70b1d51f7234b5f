"""From plain dicts to frozen specs: the schema, the conversion, and the compilation. No Hydra, no I/O."""
