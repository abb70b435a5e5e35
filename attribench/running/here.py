"""Performing the pieces of a run one by one in this process, where debuggers work."""

from __future__ import annotations

from collections.abc import Iterator

from ..base.pieces import Piece
from ..base.progress import Progress, Tracker
from .performer import Ended, Performer
from .runner import Runner


class Here(Performer):
    """This process.

    Args:
        runner: performs the pieces.
        progress: where to show how far they are.
    """

    slots = 1

    def __init__(self, runner: Runner, progress: Progress) -> None:
        self._runner = runner
        self._tracker = runner.track = Tracker(lambda *report: progress.phase(0, *report))
        self._begun: list[tuple[Piece, int]] = []

    def start(self, piece: Piece, max_edges: int) -> None:
        """Take note of a piece, which is performed when it is waited for."""
        self._begun.append((piece, max_edges))

    def wait(self) -> Iterator[Ended]:
        """Perform what was begun."""
        while self._begun:
            piece, max_edges = self._begun.pop()
            runner = self._runner
            worked, ran = runner.worked, runner.ran
            runner.perform(piece, max_edges)
            self._tracker.end()
            yield Ended(piece, worked=runner.worked - worked, ran=runner.ran > ran)
