"""Entry of the store's process: ``python -I -S .../tcpstore/__main__.py FD``. Finds the package, and nothing else.

Run by path because ``-I -S`` knows no site-packages; the package root goes to the end of sys.path, after the stdlib.
"""

import os
import sys

if __name__ == "__main__":
    root = os.path.abspath(__file__)
    for _ in range(4):
        root = os.path.dirname(root)
    sys.path.append(root)
    from orchestrator.edge.tcpstore import process

    process.main(int(sys.argv[1]))
