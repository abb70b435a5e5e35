"""Where the command line speaks: tables on standard output, one line of what went wrong on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ..base.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

TABLE_WIDTH = 110
"""Columns of tables that go to a file or a pipe."""

LINE_LENGTH = 1000
"""Characters of an error that are shown, from both its ends."""


def console() -> Console:
    """Return standard output; where it is not a terminal, wide enough for the tables."""
    from rich.console import Console

    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=TABLE_WIDTH)


def say(line: str) -> None:
    """Say one line on standard error, of what may be a stranger's text."""
    shown = printable(line)
    half = LINE_LENGTH // 2
    typer.echo(shown if len(shown) <= LINE_LENGTH else f"{shown[:half]} ... {shown[-half:]}", err=True)
