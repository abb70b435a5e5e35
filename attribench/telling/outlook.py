"""What a run would do, on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def print_stale(folder: Path, tasks: Sequence[str], methods: Sequence[str], stale: Iterable[tuple[str, str]]) -> None:
    """Print which rows of a run are not of today's code, as (task, method), of those of some tasks and methods."""
    others: dict[str, list[str]] = {}
    for task, method in stale:
        others.setdefault(task, []).append(method)
    count = len(tasks) * len(methods)
    current = sum(method not in others.get(task, ()) for task in tasks for method in methods)
    typer.echo(f"{folder}: {current} of {count} rows are of today's code")
    groups: dict[str, list[str]] = {}
    for task, there in others.items():
        every = task in tasks and all(method in there for method in methods)
        names = ["every method"] if every else [method for method in there if method]
        groups.setdefault(", ".join(names + ["its models"] * ("" in there)), []).append(task)
    for which, where in groups.items():
        typer.echo(f"  of other code, or not there: {'; '.join(where)}: {which}")
