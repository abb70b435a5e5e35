"""Worker processes that perform the pieces of a run, and may die or take too long.

A worker gets the name of a piece and leaves the result in the results folder; what it sends back is progress alone.
Processes are managed by Pebble, which ends a worker at its time limit and replaces one that died.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pebble import ProcessExpired, ProcessPool

from ..base.errors import StorageError, UserError, first_line
from ..base.pieces import Cell, Piece
from ..base.progress import Progress
from ..explaining.job import ATTEMPTS, FAULTS, SMALLER
from .options import Overwrite
from .plan import Plan
from .printed import clear_output, output, take_output
from .processes import context, warm_up
from .runner import Runner
from .schedule import Schedule
from .speaking import Listening
from .worker import perform, start

logger = logging.getLogger(__name__)

BUSY_SECONDS = 1.0
"""How often to look whether another process has finished what it is doing."""

MOST_BROKEN = 5
"""How often all processes may have to be started anew because one died while it had nothing to do."""


class Workers:
    """Worker processes.

    Args:
        runner: of the parent process; it records what a worker could not.
        jobs: how many processes.
        timeout: seconds that a cell may take; None for no limit.
        overwrite: as for the runner.
    """

    def __init__(self, runner: Runner, jobs: int, timeout: float | None, overwrite: Overwrite) -> None:
        self.runner = runner
        self.jobs = jobs
        self.timeout = timeout
        self._overwrite = overwrite
        self._killed: Counter[Piece] = Counter()

    def perform(self, progress: Progress) -> Iterator[Cell]:
        """Perform all pieces; yield each cell when it is done.

        Raises:
            StorageError: when a worker could not write; all others are ended.
        """
        clear_output(self.runner)
        schedule, total = Schedule(self.runner), len(self.runner.plan.cells())
        yield from schedule.finished
        done = len(schedule.finished)
        broken = 0
        while schedule:
            running: dict[Future[bool], Piece] = {}
            with Listening(progress) as address, self._pool(address) as pool:
                while schedule or running:
                    while len(running) < self.jobs and (piece := schedule.next()) is not None:
                        timeout = self.timeout if isinstance(piece, Cell) else None
                        running[pool.schedule(perform, (piece, self._limit(piece)), timeout=timeout)] = piece
                    progress.overall(", ".join(sorted({piece.task for piece in running.values()})), done, total)
                    ready, _ = wait(running, timeout=BUSY_SECONDS, return_when=FIRST_COMPLETED)
                    try:
                        for future in ready:
                            if self._again(running[future], future):
                                schedule.later(running.pop(future))
                                continue
                            for cell in schedule.done(running.pop(future)):
                                done += 1
                                progress.ended(cell.title, self.runner.status(cell), done, total)
                                yield cell
                    except BrokenProcessPool as error:
                        broken += 1
                        if broken > MOST_BROKEN:
                            raise UserError(
                                "expected worker processes that start; they ended before they did anything: see what "
                                "they say with --jobs 0"
                            ) from error
                        for waiting in running.values():
                            schedule.later(waiting)
                        break

    @contextlib.contextmanager
    def _pool(self, address: tuple[Any, bytes]) -> Iterator[ProcessPool]:
        store, cache = self.runner.store.root, self.runner.cache.folder.parent
        arguments = (self.runner.plan, store, cache, self._overwrite, self.timeout, os.getpid(), *address)
        warm_up()
        pool = ProcessPool(self.jobs, initializer=start, initargs=arguments, context=context())
        try:
            yield pool
            pool.close()
        finally:
            pool.stop()
            pool.join()

    def _limit(self, piece: Piece) -> int:
        """Return the most edges of a pass: fewer where a process was killed over it."""
        smaller: int = SMALLER ** self._killed[piece]
        return max(1, self.runner.plan.max_edges // smaller)

    def _again(self, piece: Piece, future: Future[bool]) -> bool:
        """Say whether a piece has to be done again; record what its worker could not."""
        try:
            performed = future.result()
        except (StorageError, BrokenProcessPool):
            raise
        except TimeoutError:
            self._end(piece, "timeout", f"took more than {self.timeout:g} s (--cell-timeout)")
        except ProcessExpired as error:
            limit = self._limit(piece)
            self._killed[piece] += 1
            if error.exitcode != -signal.SIGKILL:
                self._end(piece, "failed", f"its process ended with {_exit(error.exitcode)}")
            elif self._killed[piece] == ATTEMPTS:
                reason = f"its process was killed {ATTEMPTS} times, most likely for memory; the last time with at most "
                self._end(piece, "out-of-memory", f"{reason}{limit} edges a pass")
            else:
                logger.warning("%s: its process was killed; trying again with smaller passes", piece.title)
                return True
        except FAULTS as error:
            self._end(piece, "failed", first_line(error))
        else:
            if not performed:
                time.sleep(BUSY_SECONDS)
            return not performed
        return False

    def _end(self, piece: Piece, status: str, reason: str) -> None:
        self.runner.end(piece, status, reason, take_output(output(self.runner, piece, os.getpid())))


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
