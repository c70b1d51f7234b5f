"""Entry of a zygote: ``python [its flags] .../guard/zygote.py PRELOAD SCRIPT`` or ``... PRELOAD -m MODULE``.

The Python is the workers', which may not have this package, or another version of it; so ours is shown to the import
of `warm` alone. Invariant: what is imported from here on is found as in a worker's own start.
"""

import os
import sys

if __name__ == "__main__":
    own = not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))
    if own:
        del sys.path[0]  # this file's directory
    root = os.path.abspath(__file__)
    for _ in range(3):
        root = os.path.dirname(root)
    package = type(sys)("orchestrator")
    package.__path__ = [root]
    sys.modules["orchestrator"] = package
    from orchestrator.edge.guard import warm

    for name in [name for name in sys.modules if name.split(".")[0] == "orchestrator"]:
        del sys.modules[name]
    warm.main(own)
