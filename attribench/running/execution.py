"""Carrying out a plan, whoever performs its pieces: what comes next, what a death means, when to try again."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator

from ..base.pieces import Cell, Piece
from ..base.progress import Progress
from ..explaining.job import ATTEMPTS, SMALLER
from .expected import Expected
from .performer import Ended, Performer
from .runner import Runner
from .schedule import Schedule
from .statuses import OVERWRITE

logger = logging.getLogger(__name__)

BUSY_SECONDS = 1.0
"""How long to wait while another process is at a piece."""


class Execution:
    """Carries out a runner's plan.

    Args:
        runner: of this process; it records what whoever performs a piece could not.
        performer: performs the pieces.
        expected: what they are expected to take, and told what they took.
    """

    def __init__(self, runner: Runner, performer: Performer, expected: Expected) -> None:
        self._runner = runner
        self._performer = performer
        self._expected = expected
        self._killed: Counter[Piece] = Counter()
        #: Seconds that were there for work, those of all that is performed at a time, and those that were worked.
        self.seconds, self.worked = 0.0, 0.0

    def cells(self, progress: Progress) -> Iterator[Cell]:
        """Perform all pieces; yield each cell when it is done.

        Raises:
            StorageError: when the results folder cannot be written; what is being performed is ended.
        """
        schedule, total = Schedule(self._runner, self._expected), len(self._runner.plan.cells())
        yield from schedule.finished
        done = len(schedule.finished)
        if not schedule:
            return
        performer, begun, start = self._performer, dict[Piece, float](), time.monotonic()
        with performer:
            while schedule or begun:
                while len(begun) < performer.slots and (piece := schedule.next()) is not None:
                    begun[piece] = time.monotonic()
                    performer.start(piece, self.limit(piece))
                names = [piece.title for piece in begun] if len(begun) == 1 else {piece.task for piece in begun}
                progress.overall(", ".join(sorted(names)), done, total)
                for ended in performer.wait():
                    now = time.monotonic()
                    self.seconds, seconds = performer.slots * (now - start), now - begun.pop(ended.piece)
                    self.worked += ended.worked
                    if not self.settled(ended):
                        schedule.later(ended.piece)
                        continue
                    for cell in schedule.done(ended.piece):
                        done, status = done + 1, self._runner.status(cell)
                        if ended.ran and status in OVERWRITE["failed"]:
                            self._expected.took(cell, seconds)
                        progress.ended(cell.title, status, done, total)
                        yield cell

    def limit(self, piece: Piece) -> int:
        """Return the most edges of a pass: fewer where a process was killed over it."""
        smaller: int = SMALLER ** self._killed[piece]
        return max(1, self._runner.plan.max_edges // smaller)

    def settled(self, ended: Ended) -> bool:
        """Say whether a piece need not be performed again; record what whoever performed it could not."""
        piece = ended.piece
        if ended.how == "performed":
            return True
        if ended.how == "busy":
            time.sleep(BUSY_SECONDS)
        if ended.how in ("busy", "lost"):
            return False
        if ended.how != "killed":
            self._runner.end(piece, ended.how, ended.reason, ended.log)
            return True
        limit = self.limit(piece)
        self._killed[piece] += 1
        if self._killed[piece] < ATTEMPTS:
            logger.warning("%s: its process was killed; trying again with smaller passes", piece.title)
            return False
        reason = f"its process was killed {ATTEMPTS} times, most likely for memory; the last time with at most "
        self._runner.end(piece, "out-of-memory", f"{reason}{limit} edges a pass", ended.log)
        return True
