"""``orchestrate-torchrun``: torchrun's command line, compiled to our configuration.

`options` reads it, `settings` says which keys of ours it means, `command` runs the job or prints it as a recipe.
Invariant: what it runs is what the printed recipe runs; whatever cannot be honoured is named on a line of its own.
"""
