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
from ..base.names import base_name
from ..base.pieces import Cell, Piece
from ..plugins.configs import Overrides
from ..plugins.registry import METHODS

logger = logging.getLogger(__name__)

MOST_KEPT = 10_000
"""Pieces, without their seeds, of which it is kept what they took; those seen longest ago go first."""


class Expected:
    """What cells are expected to take. It decides no result: only what is begun first.

    Args:
        path: the file that it is kept in, for other runs with the same cache; None to keep nothing.
        configs: of the plan's methods, by name.
        overrides: of the plan: a cell at other sizes takes another time.
    """

    def __init__(self, path: Path | None, configs: Mapping[str, Any], overrides: Overrides) -> None:
        self._path = path
        self._configs = configs
        self._overrides = overrides
        self._known = {} if path is None else _read(path)
        self._new: dict[str, float] = {}

    def rank(self, piece: Piece) -> tuple[bool, bool, float]:
        """Return what pieces are ordered by, the longest having the highest.

        Those that were never seen come first: they may be long. Of these the ones that make their steps to fit, since
        they may fit several times, and do it again on shuffled weights; then the more steps, the earlier.
        """
        name = self._name(piece)
        seconds = self._new.get(name, self._known.get(name))
        return (True, *self._steps(piece)) if seconds is None else (False, False, seconds)

    def took(self, piece: Piece, seconds: float) -> None:
        """Take note of what a piece took that was made from its beginning."""
        self._new.pop(self._name(piece), None)  # what was seen last stands last
        self._new[self._name(piece)] = round(seconds, 2)

    def save(self) -> None:
        """Keep what is known for the next run; one that cannot be written is no loss."""
        if self._path is None or not self._new:
            return
        others = {name: seconds for name, seconds in _read(self._path).items() if name not in self._new}
        kept = dict([*others.items(), *self._new.items()][-MOST_KEPT:])

        def write(draft: Path) -> None:
            draft.write_text(json.dumps(kept), encoding="utf-8")

        try:
            write_atomically(self._path, write)
        except StorageError as error:
            logger.info("what the cells took is not kept: %s", error)

    def _steps(self, piece: Piece) -> tuple[bool, float]:
        """Return whether a method makes steps to fit, and how many it makes."""
        if not isinstance(piece, Cell) or piece.method not in self._configs:
            return False, 0.0
        option, phase = METHODS[piece.method].steps_option or ("", "")
        steps = getattr(self._configs[piece.method], option, None)
        return phase == "fit", float(steps) if isinstance(steps, int | float) else 0.0

    def _name(self, piece: Piece) -> str:
        names = [piece.task, piece.method] if isinstance(piece, Cell) else [piece.task]
        set_here = {base: self._overrides[base] for base in map(base_name, names) if self._overrides.get(base)}
        return " · ".join(names + ([json.dumps(set_here, sort_keys=True, default=str)] if set_here else []))


def _read(path: Path) -> dict[str, float]:
    """Return what is kept, what was seen longest ago first; nothing where the file is not there or is another's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): float(x) for name, x in content.items() if math.isfinite(x) and x >= 0}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return {}
