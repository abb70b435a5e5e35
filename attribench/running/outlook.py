"""What a run would do, without doing it: which pieces are there, which would run and why, how long and how large."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.pieces import Cell
from ..storing.records import Record
from ..storing.runs import Entry
from .runner import Runner
from .statuses import SCORED

_IDENTITY = ("task", "method", "data_seed", "model_seed", "fit_seed")


@dataclass(frozen=True)
class Outlook:
    """What a run would find of one cell.

    Args:
        cell: which.
        why: it would run; None where nothing is left to do.
        seconds: that it took before, or cells of its method did on average; None where that is not known.
        size: bytes of what is kept of it, or would be; None where that is not known.
    """

    cell: Cell
    why: str | None
    seconds: float | None
    size: int | None


def outlook(runner: Runner, entries: list[Entry]) -> list[Outlook]:
    """Return what a run of a runner's plan would find of every cell.

    Args:
        runner: of the plan; nothing is written.
        entries: the runs that were made in the folder, the last one last.
    """
    known: dict[tuple[Any, ...], Record] = {}
    costs: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for key in (key for entry in entries for key in entry.keys):
        record = runner.store.record(key)
        if record is not None:
            known[tuple(record.content.get(name) for name in _IDENTITY)] = record
            if record.status in SCORED:
                cost = _seconds(record), size_of(runner.store.cells / key)
                costs.setdefault((str(record.content.get("task")), str(record.content.get("method"))), []).append(cost)
    found = []
    for cell in runner.plan.cells():
        seen = costs.get((cell.task, cell.method), [])
        mean = tuple(sum(column) / len(seen) for column in zip(*seen, strict=True)) if seen else (None, None)
        before = known.get((cell.task, cell.method, cell.data_seed, cell.model_seed, cell.fit_seed))
        why = None if runner.finished(cell) else _why(runner, cell, before)
        found.append(Outlook(cell, why, mean[0], None if mean[1] is None else int(mean[1])))
    return found


def _why(runner: Runner, cell: Cell, before: Record | None) -> str:
    stored = runner.store.record(runner.keys[cell])
    if stored is not None:
        if stored.status not in runner.kept:
            return f"it ended as {stored.status}"
        return "its scores are not there, or of other code"
    if before is None:
        return "it was never run here"
    now: Mapping[str, Any] = runner.keys.cell_content(cell)
    changed = [name.replace("_", " ") for name, value in now.items() if before.content.get(name) != value]
    return f"of what decides it, this changed: {', '.join(changed) or 'what is no longer said'}"


def _seconds(record: Record) -> float:
    return sum(float(value or 0) for name, value in record.costs.items() if name in _SECONDS)


_SECONDS = ("fit_seconds", "validation_seconds", "test_seconds", "randomised_seconds")


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of the files below a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
