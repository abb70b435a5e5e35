"""How long pieces are expected to take, from what they took before: so that the longest come first."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import StorageError
from ..base.files import write_atomically
from ..base.pieces import Cell, Piece
from ..plugins.registry import METHODS

logger = logging.getLogger(__name__)

MOST_KEPT = 10_000
"""Pieces, without their seeds, of which it is kept what they took; those seen longest ago go first."""


class Expected:
    """What pieces are expected to take. It decides no result: only what is begun first.

    Args:
        path: the file that it is kept in, for other runs with the same cache; None to keep nothing.
        configs: of the plan's methods, by name.
    """

    def __init__(self, path: Path | None, configs: Mapping[str, Any]) -> None:
        self._path = path
        self._configs = configs
        self._seconds = {} if path is None else _read(path)

    def rank(self, piece: Piece) -> tuple[bool, float]:
        """Return what pieces are ordered by, the longest having the highest.

        Those that were never seen come first, the more steps they make the earlier: they may be long.
        """
        seconds = self._seconds.get(_name(piece))
        return (True, self._steps(piece)) if seconds is None else (False, seconds)

    def took(self, piece: Piece, seconds: float) -> None:
        """Take note of what a piece took."""
        self._seconds.pop(_name(piece), None)
        self._seconds[_name(piece)] = round(seconds, 2)

    def save(self) -> None:
        """Keep what is known for the next run; one that cannot be written is no loss."""
        if self._path is None:
            return
        kept = dict([*_read(self._path).items(), *self._seconds.items()][-MOST_KEPT:])

        def write(draft: Path) -> None:
            draft.write_text(json.dumps(kept), encoding="utf-8")

        try:
            write_atomically(self._path, write)
        except StorageError as error:
            logger.info("what the cells took is not kept: %s", error)

    def _steps(self, piece: Piece) -> float:
        if not isinstance(piece, Cell) or piece.method not in self._configs:
            return 0.0
        option = METHODS[piece.method].steps_option
        return 0.0 if option is None else float(getattr(self._configs[piece.method], option[0]))


def _name(piece: Piece) -> str:
    return f"{piece.task} · {piece.method}" if isinstance(piece, Cell) else piece.task


def _read(path: Path) -> dict[str, float]:
    """Return what is kept; nothing where the file is not there or is another's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): float(x) for name, x in content.items() if math.isfinite(x) and x >= 0}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
