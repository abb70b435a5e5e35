"""Which piece of a run comes next, whoever performs it."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count

from ..base.pieces import Cell, Piece, ProblemSpec
from .expected import Expected
from .runner import Runner
from .statuses import REFUSED


class Schedule:
    """Which piece comes next: a problem, then its cells, the longest first; the problems with the longest cells first.

    So what is long is not begun last, while everything else waits for it. The cells of a problem stay together, since a
    process keeps the problem that it built last.

    Args:
        runner: knows what is finished.
        expected: how long pieces take.
    """

    def __init__(self, runner: Runner, expected: Expected | None = None) -> None:
        self._runner = runner
        rank = Expected(None, {}, {}).rank if expected is None else expected.rank
        #: Cells that need nothing more.
        self.finished = list[Cell]()
        self._waiting: dict[ProblemSpec, list[Cell]] = {spec: [] for spec in runner.plan.problems()}  # for it
        for cell in runner.plan.cells():
            (self.finished if runner.finished(cell) else self._waiting[cell.problem]).append(cell)
        for cells in self._waiting.values():
            cells.sort(key=rank, reverse=True)  # is stable
        longest = {spec: max(map(rank, cells), default=(False, 0.0)) for spec, cells in self._waiting.items()}
        order = sorted(self._waiting, key=lambda spec: longest[spec], reverse=True)
        places = count()
        self._place: dict[Piece, int] = {}
        for spec in order:
            pieces: tuple[Piece, ...] = (spec, *self._waiting[spec])
            self._place |= {piece: next(places) for piece in pieces}
        self._places = places
        self._ready = list[tuple[int, Piece]]()  # a heap
        for spec in order:
            if runner.finished(spec):
                self.finished += self.done(spec)
            else:
                self._make_ready(spec)

    def next(self) -> Piece | None:
        """Return a piece that can be done now, None where there is none at present."""
        return heappop(self._ready)[1] if self._ready else None

    def later(self, piece: Piece) -> None:
        """Take a piece back; it comes after the others."""
        self._place[piece] = next(self._places)
        self._make_ready(piece)

    def done(self, piece: Piece) -> list[Cell]:
        """Take note that a piece is done; return the cells that need nothing more."""
        if isinstance(piece, Cell):
            return [piece]
        cells = self._waiting.pop(piece, [])
        stored = self._runner.load_problem(piece)
        if stored is not None and stored.status == "ok":
            for cell in cells:
                self._make_ready(cell)
            return []
        for cell in cells:
            if stored is None:
                reason = f"what is stored for its problem is not there, in {self._runner.store.cells}: run it again"
                self._runner.end(cell, "failed", reason)
            else:
                status = "skipped" if stored.status == REFUSED else stored.status
                self._runner.end(cell, status, stored.reason, stored.log)
        return cells

    def _make_ready(self, piece: Piece) -> None:
        heappush(self._ready, (self._place[piece], piece))

    def __bool__(self) -> bool:
        """Say whether any piece is waiting."""
        return bool(self._ready) or any(self._waiting.values())
