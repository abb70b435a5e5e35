"""Progress bars: one for the cells of a run, one for what the current cell is doing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

T = TypeVar("T")

_REFRESH_SECONDS = 0.1


class Progress:
    """Two progress bars on standard error; nothing is shown where it is not a terminal.

    Args:
        console: where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._phase: Any = None

    def cells(self, cells: Sequence[T], describe: Callable[[T], str]) -> Iterator[T]:
        """Iterate over the cells of a run."""
        with self._bars:
            overall = self._bars.add_task("cells", total=len(cells))
            for cell in cells:
                self._bars.update(overall, description=describe(cell))
                yield cell
                self._end_phase()
                self._bars.advance(overall)

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Iterate over the steps of a phase. Drawing is throttled, so that fast steps stay fast."""
        self._end_phase()
        if total is None and isinstance(items, Sequence | range):
            total = len(items)
        self._phase = self._bars.add_task(f"  {description}", total=total)
        drawn = time.monotonic()
        for count, item in enumerate(items):
            now = time.monotonic()
            if now - drawn > _REFRESH_SECONDS:
                self._bars.update(self._phase, completed=count)
                drawn = now
            yield item
        self._end_phase()

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._bars.remove_task(self._phase)
            self._phase = None
