"""Worker processes that perform the pieces of a run, and may die or take too long.

A worker gets the name of a piece and leaves the result in the results folder; what it sends back is progress alone.
Processes are managed by Pebble, which ends a worker at its time limit and replaces one that died.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Self

from pebble import ProcessExpired, ProcessPool

from ..base.errors import StorageError, UserError, first_line
from ..base.pieces import Cell, Piece
from ..base.progress import Progress
from ..explaining.job import FAULTS
from .options import Overwrite
from .performer import Ended, How, Performer
from .plan import Plan
from .printed import clear_output, output, take_output
from .processes import context, warm_up
from .runner import Runner
from .speaking import Listening
from .worker import perform, start

WAIT_SECONDS = 1.0
"""How long to wait for some piece to end, before it is shown again what is being done."""

MOST_BROKEN = 5
"""How often all processes may have to be started anew because one died while it had nothing to do."""


class Workers(Performer):
    """Worker processes.

    Args:
        runner: of this process.
        progress: where to show how far the pieces are.
        jobs: how many processes.
        timeout: seconds that a cell may take; None for no limit.
        overwrite: as for the runner.
    """

    def __init__(
        self, runner: Runner, progress: Progress, jobs: int, timeout: float | None, overwrite: Overwrite
    ) -> None:
        self.slots = jobs
        self._runner = runner
        self._progress = progress
        self._timeout = timeout
        self._overwrite = overwrite
        self._running: dict[Future[tuple[float, bool] | None], Piece] = {}
        self._broken = 0
        self._processes = contextlib.ExitStack()  # what has to be ended with them
        self._pool: ProcessPool | None = None

    def __enter__(self) -> Self:
        clear_output(self._runner)
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None and self._pool is not None:
            self._pool.close()
        self._end()

    def start(self, piece: Piece, max_edges: int) -> None:
        """Hand a piece to a process; where there are none, they are started."""
        if self._pool is None:
            self._pool = self._started()
        timeout = self._timeout if isinstance(piece, Cell) else None
        self._running[self._pool.schedule(perform, (piece, max_edges), timeout=timeout)] = piece

    def wait(self) -> Iterator[Ended]:
        """Wait for a piece to end; yield those that did."""
        ready, _ = wait(self._running, timeout=WAIT_SECONDS, return_when=FIRST_COMPLETED)
        for future in ready:
            try:
                ended = self.ended(self._running[future], future)
            except BrokenProcessPool as error:
                self._broken += 1
                if self._broken > MOST_BROKEN:
                    raise UserError(
                        "expected worker processes that start; they ended before they did anything: see what they say "
                        "with --jobs 0"
                    ) from error
                lost, self._running = self._running, {}
                self._end()
                for piece in lost.values():
                    yield Ended(piece, "lost")
                return
            del self._running[future]
            yield ended

    def ended(self, piece: Piece, future: Future[tuple[float, bool] | None]) -> Ended:
        """Return how a piece ended.

        Raises:
            BrokenProcessPool: when it is not the piece's doing: all processes have to be started anew.
        """
        how: How
        try:
            work = future.result()
            return Ended(piece, "busy") if work is None else Ended(piece, worked=work[0], ran=work[1])
        except (StorageError, BrokenProcessPool):
            raise
        except TimeoutError:
            how, reason = "timeout", f"took more than {self._timeout:g} s (--cell-timeout)"
        except ProcessExpired as error:
            killed = error.exitcode == -signal.SIGKILL
            how, reason = "killed" if killed else "failed", f"its process ended with {_exit(error.exitcode)}"
        except FAULTS as error:
            how, reason = "failed", first_line(error)
        return Ended(piece, how, reason, take_output(output(self._runner, piece, os.getpid())))

    def _started(self) -> ProcessPool:
        address = self._processes.enter_context(Listening(self._progress))
        store, cache = self._runner.store.root, self._runner.cache.folder.parent
        arguments = (self._runner.plan, store, cache, self._overwrite, self._timeout, os.getpid(), *address)
        warm_up()
        pool = ProcessPool(self.slots, initializer=start, initargs=arguments, context=context())
        self._processes.callback(pool.join)
        self._processes.callback(pool.stop)
        return pool

    def _end(self) -> None:
        """End all processes."""
        self._pool = None
        self._processes.close()


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {-code} ({signal.Signals(-code).name})"
    return f"exit code {code}"


def default_jobs(plan: Plan) -> int:
    """Return how many workers a run has unless told: the cores shared out; on a GPU, whose memory they share, one."""
    if plan.device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // plan.threads)
