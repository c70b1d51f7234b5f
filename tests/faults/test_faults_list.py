"""The list of faults is whole: each of the numbers that belong here has a test that is named after it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

LIST = range(1, 34)  # 34 to 40 are of the rendezvous: tests/edge/test_rendezvous_*.py and tests/chaos


def test_every_fault_has_a_test_of_its_name() -> None:
    named: Counter[int] = Counter()
    for path in sorted(Path(__file__).parent.glob("test_faults_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_fault_"):
                number = re.match(r"test_fault_(\d\d)_[a-z0-9]", node.name)
                assert number is not None, f"{path.name}: {node.name} does not name its fault"
                named[int(number[1])] += 1
    assert sorted(named) == list(LIST)
