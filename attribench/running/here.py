"""Performing the pieces of a run one by one in this process, where debuggers work."""

from __future__ import annotations

from collections.abc import Iterator

from ..base.pieces import Cell
from ..base.progress import Progress, Tracker
from .runner import Runner
from .schedule import Schedule


def perform_here(runner: Runner, progress: Progress) -> Iterator[Cell]:
    """Perform all pieces in this process; yield each cell when it is done."""
    tracker = Tracker(lambda *report: progress.phase(0, *report))
    runner.track = tracker
    schedule, total = Schedule(runner), len(runner.plan.cells())
    yield from schedule.finished
    done = len(schedule.finished)
    while (piece := schedule.next()) is not None:
        progress.overall(piece.title, done, total)
        runner.perform(piece)
        tracker.end()
        for cell in schedule.done(piece):
            done += 1
            progress.ended(cell.title, runner.status(cell), done, total)
            yield cell
