"""How a command ended: the comparison, what is left to say, and the exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .console import console, say

if TYPE_CHECKING:
    from .results import Results

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def tell_ending(results: Results) -> int:
    """Print the comparison and what is left to say; return the exit code."""
    ending = results.ending
    assert ending is not None
    if ending.report.results:
        from .terminal import print_comparison  # and with it what makes tables

        print_comparison(ending.report, console())
        sys.stdout.flush()
    for why, count in ending.left_out.items():
        say(f"left out of {results.folder}: {count} cell{'s' * (count > 1)} {why}")
    for task, reason in ending.refused.items():
        say(f"error: {task}: {reason}")
    if ending.done < ending.planned:
        say(f"interrupted after {ending.done} of {ending.planned} cells; they are kept: run the same command again")
        return EXIT_INTERRUPTED
    say(f"wrote {results.folder}")
    return EXIT_BAD_INPUT if ending.refused else 0 if ending.well else 1
