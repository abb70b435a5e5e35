"""The command line in this process."""

import sys
from collections.abc import Callable

import pytest

from attribench.cli import main

Command = Callable[..., tuple[int, str, str]]
"""Takes the words after ``attribench``; returns exit code, standard output and error."""


def exit_code(*arguments: str) -> int:
    """Run the command line on a terminal of 120 columns; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["attribench", *arguments])
        patch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)
