"""Who performs the pieces of a run: this process, worker processes, and whoever else can."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from ..base.pieces import Piece

How = Literal["performed", "busy", "lost", "killed", "failed", "timeout"]


@dataclass(frozen=True)
class Ended:
    """How it ended that a piece was performed.

    Args:
        piece: which.
        how: ``performed``: what came out is in the results folder. ``busy``: another process is at it. ``lost``: it was
            not begun. ``killed``: the process was, most likely for memory. ``failed``, ``timeout``: for good.
        reason: why, where it is not in the results folder.
        log: what it printed until then.
        worked: seconds of building, explaining and scoring.
        ran: whether a method ran: what was there may have been scored alone.
    """

    piece: Piece
    how: How = "performed"
    reason: str = ""
    log: str = ""
    worked: float = 0.0
    ran: bool = False


class Performer(ABC):
    """Performs pieces, some at a time, and tells how each ended (a context manager, entered when there is work).

    What comes out of a piece is left in the results folder by the runner, wherever it was performed. What a death means
    and when to try again is not the performer's to decide: see :class:`~attribench.running.execution.Execution`.
    """

    #: How many pieces at most are performed at a time.
    slots: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027 - optional
        """End what is still being performed."""

    @abstractmethod
    def start(self, piece: Piece, max_edges: int) -> None:
        """Begin a piece, in passes of at most ``max_edges`` edges; there are fewer than ``slots`` at work."""

    @abstractmethod
    def wait(self) -> Iterator[Ended]:
        """Wait for some piece to end, or for about a second; yield those that did.

        Raises:
            StorageError: when the results folder could not be written.
            UserError: when nothing can be performed.
        """
