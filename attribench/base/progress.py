"""Progress: on a terminal a bar for the pieces of a run and one for what each process does, elsewhere a line a cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

T = TypeVar("T")
Report = Callable[[str, int, int | None], None]
"""``report(description, done, total)``; an empty description ends the phase."""

_REFRESH_SECONDS = 0.1


class Progress:
    """Progress bars on standard error (a context manager); where it is no terminal, a line for every cell that ends.

    Args:
        console: where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._console = console
        self._overall: Any = None
        self._done = 0
        self._phases: dict[int, tuple[str, Any]] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._bars.disable:  # rich before 14.3 ends with an empty line what it has not drawn
            self._bars.stop()

    def overall(self, description: str, done: int, total: int) -> None:
        """Show how much of the run is done."""
        if self._overall is None:
            self._overall = self._bars.add_task(description, total=total)
        self._done = max(done, self._done)
        self._bars.update(self._overall, description=description, completed=self._done, total=total)

    def ended(self, title: str, status: str, done: int, total: int) -> None:
        """Say that a cell was run: a line where bars are not shown."""
        if not self._console.is_terminal:
            self._console.print(f"[{done}/{total}] {title}: {status}", markup=False, highlight=False, soft_wrap=True)

    def phase(self, who: int, description: str, done: int, total: int | None) -> None:
        """Show what one process is doing; an empty description says that it has ended."""
        if not description:
            if who in self._phases:
                self._bars.remove_task(self._phases.pop(who)[1])
            return
        before, bar = self._phases.get(who, ("", None))
        if bar is not None and before != description:  # another phase: no bar runs backwards
            self._bars.remove_task(bar)
            bar = None
        if bar is None:
            bar = self._bars.add_task(f"  {description}", total=total)
            self._phases[who] = description, bar
        self._bars.update(bar, completed=done, total=total)


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
