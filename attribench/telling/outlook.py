"""What a run would do, on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import typer

from ..base.pieces import Cell


class _Cell(Protocol):
    """What is known of a cell before it runs."""

    @property
    def cell(self) -> Cell: ...
    @property
    def why(self) -> str | None: ...
    @property
    def seconds(self) -> float | None: ...
    @property
    def size(self) -> int | None: ...


def print_outlook(folder: Path, found: Iterable[_Cell]) -> None:
    """Print which cells of a run are there, which would run and why, how long and how much disk that would take."""
    cells = list(found)
    missing = [one for one in cells if one.why is not None]
    seconds = [one.seconds for one in missing if one.seconds is not None]
    sizes = [one.size for one in missing if one.size is not None]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in cells:
        key = (one.cell.task, one.cell.method, "is there" if one.why is None else f"would run: {one.why}")
        groups.setdefault(key, []).append(one.cell.seed)
    for (task, method, what), seeds in groups.items():
        which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(seeds)}"
        typer.echo(f"{task} · {method} · {which}: {what}")
    text = f"{folder}: {len(cells) - len(missing)} of {len(cells)} cells are there; {len(missing)} would run"
    if seconds:
        text += f", about {sum(seconds):.1f} s in all and {sum(sizes) / 1e6:.2f} MB by what such cells took here before"
    unknown = len(missing) - len(seconds)
    if unknown:
        text += f"; of {unknown} it is not known how long they take" if seconds else ", it is not known how long"
    typer.echo(text)
