"""Which piece of a run comes next, whoever performs it."""

from __future__ import annotations

from ..base.pieces import Cell, Piece, ProblemSpec
from .runner import Runner
from .statuses import REFUSED


class Schedule:
    """Which piece comes next: in the order of the plan, and a problem's cells after the problem.

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
        self._prepared: set[ProblemSpec] = set()
        for spec in runner.plan.problems():
            self._waiting += [spec, *(cell for cell in cells if cell.problem == spec and cell in todo)]
            if runner.finished(spec):
                self._waiting.remove(spec)
                self.finished += self.done(spec)

    def next(self) -> Piece | None:
        """Return a piece that can be done now, None where there is none at present."""
        for i, piece in enumerate(self._waiting):
            if isinstance(piece, ProblemSpec) or piece.problem in self._prepared:
                return self._waiting.pop(i)
        return None

    def later(self, piece: Piece) -> None:
        """Take a piece back; it comes after the others."""
        self._waiting.append(piece)

    def done(self, piece: Piece) -> list[Cell]:
        """Take note that a piece is done; return the cells that need nothing more."""
        if isinstance(piece, Cell):
            return [piece]
        stored = self._runner.load_problem(piece)
        if stored is not None and stored.status == "ok":
            self._prepared.add(piece)
            return []
        ended = [cell for cell in self._waiting if isinstance(cell, Cell) and cell.problem == piece]
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
