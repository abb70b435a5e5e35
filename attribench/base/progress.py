"""Progress bars: one for the pieces of a run, one for what each process is doing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

T = TypeVar("T")
Report = Callable[[str, int, int | None], None]
"""``report(description, done, total)``; an empty description ends the phase."""

_REFRESH_SECONDS = 0.1


class Progress:
    """Progress bars on standard error (a context manager); nothing is shown where it is not a terminal.

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
        self._overall: Any = None
        self._phases: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def overall(self, description: str, done: int, total: int) -> None:
        """Show how much of the run is done."""
        if self._overall is None:
            self._overall = self._bars.add_task(description, total=total)
        self._bars.update(self._overall, description=description, completed=done, total=total)

    def phase(self, who: int, description: str, done: int, total: int | None) -> None:
        """Show what one process is doing; an empty description says that it has ended."""
        if not description:
            if who in self._phases:
                self._bars.remove_task(self._phases.pop(who))
            return
        if who not in self._phases:
            self._phases[who] = self._bars.add_task("", total=total)
        self._bars.update(self._phases[who], description=f"  {description}", completed=done, total=total)


class Tracker:
    """Wraps loops, and reports how far they are; throttled, so that fast steps stay fast.

    Args:
        report: told of the progress.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self.prefix = ""

    def __call__(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Iterate over the steps of a phase."""
        if total is None and isinstance(items, Sequence | range):
            total = len(items)
        text = f"{self.prefix}{description}"
        self._report(text, 0, total)
        drawn = time.monotonic()
        for count, item in enumerate(items):
            now = time.monotonic()
            if now - drawn > _REFRESH_SECONDS:
                self._report(text, count, total)
                drawn = now
            yield item

    def end(self) -> None:
        """Say that what was tracked last has ended."""
        self._report("", 0, None)
