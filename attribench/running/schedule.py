"""Which piece of a run comes next, and performing them one by one in this process."""

from __future__ import annotations

from collections.abc import Iterator

from ..base.progress import Progress, Tracker
from ..storing.pieces import Cell, Grounds, Piece
from .runner import REFUSED, Runner


class Schedule:
    """Which piece comes next: in the order of the plan, and a problem's cells after its grounds.

    Args:
        runner: knows what is finished.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        cells = runner.plan.cells()
        todo = {cell for cell in cells if not runner.finished(cell)}
        #: Cells that need nothing more.
        self.finished = [cell for cell in cells if cell not in todo]
        self._waiting: list[Piece] = []
        self._grounded: set[Grounds] = set()
        for grounds in runner.plan.grounds():
            self._waiting += [grounds, *(cell for cell in cells if cell.grounds == grounds and cell in todo)]
            if runner.finished(grounds):
                self._waiting.remove(grounds)
                self.finished += self.done(grounds)

    def next(self) -> Piece | None:
        """Return a piece that can be done now, None where there is none at present."""
        for i, piece in enumerate(self._waiting):
            if isinstance(piece, Grounds) or piece.grounds in self._grounded:
                return self._waiting.pop(i)
        return None

    def later(self, piece: Piece) -> None:
        """Take a piece back; it comes after the others."""
        self._waiting.append(piece)

    def done(self, piece: Piece) -> list[Cell]:
        """Take note that a piece is done; return the cells that need nothing more."""
        if isinstance(piece, Cell):
            return [piece]
        stored = self._runner.load_grounds(piece)
        if stored is not None and stored.status == "ok":
            self._grounded.add(piece)
            return []
        ended = [cell for cell in self._waiting if isinstance(cell, Cell) and cell.grounds == piece]
        self._waiting = [other for other in self._waiting if other not in ended]
        for cell in ended:
            if stored is None:
                reason = f"what is stored for its problem is not there, in {self._runner.store.cells}: run it again"
                self._runner.end(cell, "failed", reason)
            else:
                status = "skipped" if stored.status == REFUSED else stored.status
                self._runner.end(cell, status, stored.reason, stored.log)
        return ended

    def __bool__(self) -> bool:
        """Say whether any piece is waiting."""
        return bool(self._waiting)


def describe(piece: Piece) -> str:
    """Return what a piece is called in a progress bar."""
    name = f" · {piece.method}" if isinstance(piece, Cell) else ""
    return f"{piece.task}{name} · seed {piece.seed}"


def perform_here(runner: Runner, progress: Progress) -> Iterator[Cell]:
    """Perform all pieces in this process; yield each cell when it is done."""
    tracker = Tracker(lambda *report: progress.phase(0, *report))
    runner.track = tracker
    schedule, total = Schedule(runner), len(runner.plan.cells())
    yield from schedule.finished
    done = len(schedule.finished)
    while (piece := schedule.next()) is not None:
        progress.overall(describe(piece), done, total)
        runner.perform(piece)
        tracker.end()
        ended = schedule.done(piece)
        done += len(ended)
        yield from ended
