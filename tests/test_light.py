"""Commands that need no model import nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "numpy", "pandas", "rich", "markdown_it")
DRIVER = f"""
import atexit, json, sys
atexit.register(lambda: print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]), file=sys.stderr))
from attribench.cli import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["run", "--help"], 0),
        (["--version"], 0),
        (["run", "--nope"], 2),
        (["run", "--seeds", "0"], 2),
        (["run", "--jobs", "x"], 2),
        (["list", "nothing"], 2),
    ],
)
def test_help_and_refusals_import_nothing_heavy(arguments: list[str], code: int, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{DRIVER}", *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    *said, imported = done.stderr.splitlines()
    assert done.returncode == code
    assert bool(said) == bool(code)
    assert json.loads(imported) == []
