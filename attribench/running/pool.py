"""Who performs the pieces of a run: this process, or several worker processes that may die or take too long.

A worker gets the name of a piece and leaves the result in the results folder; what it sends back is progress alone.
Processes are managed by Pebble, which ends a worker at its time limit and replaces one that died.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Any

import torch
from pebble import ProcessExpired, ProcessPool

from ..base.errors import StorageError, UserError
from ..base.progress import Progress, Tracker
from ..explaining.job import ATTEMPTS, FAULTS, SMALLER, first_line
from ..plugins.registry import load_plugin
from ..storing.pieces import Cell, Grounds, Item
from ..storing.store import OLD_DRAFT_SECONDS, CellStore, ModelCache
from .plan import Plan
from .processes import context, warm_up
from .runner import REFUSED, Runner

logger = logging.getLogger(__name__)

BUSY_SECONDS = 1.0
"""How often to look whether another process has finished what it is doing."""

MOST_BROKEN = 5
"""How often all processes may have to be started anew because one died while it had nothing to do."""

MAX_OUTPUT = 100_000
"""Bytes kept of what a piece printed, from its end."""

LOOK_SECONDS = 0.2
"""How often to look whether a piece has printed more than twice that."""


class Schedule:
    """Which piece comes next: in the order of the plan, and a problem's cells after its grounds.

    Args:
        runner: knows what is finished.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        cells = runner.plan.cells()
        todo = {cell for cell in cells if not runner.finished(cell)}
        #: Cells that need nothing more.
        self.finished = [cell for cell in cells if cell not in todo]
        self._waiting: list[Item] = []
        self._grounded: set[Grounds] = set()
        for grounds in runner.plan.grounds():
            self._waiting += [grounds, *(cell for cell in cells if cell.grounds == grounds and cell in todo)]
            if runner.finished(grounds):
                self._waiting.remove(grounds)
                self.finished += self.done(grounds)

    def next(self) -> Item | None:
        """Return a piece that can be done now, None where there is none at present."""
        for i, item in enumerate(self._waiting):
            if isinstance(item, Grounds) or item.grounds in self._grounded:
                return self._waiting.pop(i)
        return None

    def later(self, item: Item) -> None:
        """Take a piece back; it comes after the others."""
        self._waiting.append(item)

    def done(self, item: Item) -> list[Cell]:
        """Take note that a piece is done; return the cells that need nothing more."""
        if isinstance(item, Cell):
            return [item]
        stored = self._runner.load_grounds(item)
        if stored is not None and stored.status == "ok":
            self._grounded.add(item)
            return []
        ended = [cell for cell in self._waiting if isinstance(cell, Cell) and cell.grounds == item]
        self._waiting = [other for other in self._waiting if other not in ended]
        for cell in ended:
            if stored is None:
                reason = f"what is stored for its problem is not there, in {self._runner.store.cells}: run it again"
                self._runner.end(cell, "failed", reason)
            else:
                status = "skipped" if stored.status == REFUSED else stored.status
                self._runner.end(cell, status, stored.reason, stored.log)
        return ended

    def __bool__(self) -> bool:
        """Say whether any piece is waiting."""
        return bool(self._waiting)


def describe(item: Item) -> str:
    """Return what a piece is called in a progress bar."""
    name = f" · {item.method}" if isinstance(item, Cell) else ""
    return f"{item.task}{name} · seed {item.seed}"


def perform_here(runner: Runner, progress: Progress) -> Iterator[Cell]:
    """Perform all pieces in this process; yield each cell when it is done."""
    tracker = Tracker(lambda *report: progress.phase(0, *report))
    runner.track = tracker
    schedule, total = Schedule(runner), len(runner.plan.cells())
    yield from schedule.finished
    done = len(schedule.finished)
    while (item := schedule.next()) is not None:
        progress.overall(describe(item), done, total)
        runner.perform(item)
        tracker.end()
        ended = schedule.done(item)
        done += len(ended)
        yield from ended


class Workers:
    """Worker processes.

    Args:
        runner: of the parent process; it records what a worker could not.
        jobs: how many processes.
        timeout: seconds that a cell may take; None for no limit.
        overwrite: as for the runner.
    """

    def __init__(self, runner: Runner, jobs: int, timeout: float | None, overwrite: str) -> None:
        self.runner = runner
        self.jobs = jobs
        self.timeout = timeout
        self._overwrite = overwrite
        self._killed: Counter[Item] = Counter()

    def perform(self, progress: Progress) -> Iterator[Cell]:
        """Perform all pieces; yield each cell when it is done.

        Raises:
            StorageError: when a worker could not write; all others are ended.
        """
        _clear_output(self.runner)
        schedule, total = Schedule(self.runner), len(self.runner.plan.cells())
        yield from schedule.finished
        done = len(schedule.finished)
        broken = 0
        while schedule:
            running: dict[Future[bool], Item] = {}
            with _Listening(progress) as address, self._pool(address) as pool:
                while schedule or running:
                    while len(running) < self.jobs and (item := schedule.next()) is not None:
                        timeout = self.timeout if isinstance(item, Cell) else None
                        running[pool.schedule(_perform, (item, self._limit(item)), timeout=timeout)] = item
                    progress.overall(", ".join(sorted({item.task for item in running.values()})), done, total)
                    ready, _ = wait(running, timeout=BUSY_SECONDS, return_when=FIRST_COMPLETED)
                    try:
                        for future in ready:
                            if self._again(running[future], future):
                                schedule.later(running.pop(future))
                                continue
                            ended = schedule.done(running.pop(future))
                            done += len(ended)
                            yield from ended
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
        pool = ProcessPool(self.jobs, initializer=_start, initargs=arguments, context=context())
        try:
            yield pool
            pool.close()
        finally:
            pool.stop()
            pool.join()

    def _limit(self, item: Item) -> int:
        """Return the most edges of a pass: fewer where a process was killed over it."""
        smaller: int = SMALLER ** self._killed[item]
        return max(1, self.runner.plan.max_edges // smaller)

    def _again(self, item: Item, future: Future[bool]) -> bool:
        """Say whether a piece has to be done again; record what its worker could not."""
        try:
            performed = future.result()
        except (StorageError, BrokenProcessPool):
            raise
        except TimeoutError:
            self._end(item, "timeout", f"took more than {self.timeout:g} s (--cell-timeout)")
        except ProcessExpired as error:
            limit = self._limit(item)
            self._killed[item] += 1
            if error.exitcode != -signal.SIGKILL:
                self._end(item, "failed", f"its process ended with {_exit(error.exitcode)}")
            elif self._killed[item] == ATTEMPTS:
                reason = f"its process was killed {ATTEMPTS} times, most likely for memory; the last time with at most "
                self._end(item, "out-of-memory", f"{reason}{limit} edges a pass")
            else:
                logger.warning("%s: its process was killed; trying again with smaller passes", describe(item))
                return True
        except FAULTS as error:
            self._end(item, "failed", first_line(error))
        else:
            if not performed:
                time.sleep(BUSY_SECONDS)
            return not performed
        return False

    def _end(self, item: Item, status: str, reason: str) -> None:
        self.runner.end(item, status, reason, _take_output(_output(self.runner, item, os.getpid())))


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {-code} ({signal.Signals(-code).name})"
    return f"exit code {code}"


class _Listening:
    """Takes in what workers say of their progress (a context manager that gives the address to speak to).

    Each worker has a connection of its own, so that one that is killed while it speaks does not silence the others.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._key = os.urandom(16)
        self._listener = Listener(authkey=self._key)

    def __enter__(self) -> tuple[Any, bytes]:
        threading.Thread(target=self._accept, daemon=True).start()
        return self._listener.address, self._key

    def __exit__(self, *error: Any) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except multiprocessing.AuthenticationError:
                continue
            except (OSError, EOFError):
                return
            threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: Connection) -> None:
        who = connection.fileno()
        with contextlib.suppress(OSError, EOFError, ValueError), connection:
            while True:
                kind, *content = json.loads(connection.recv_bytes())
                if kind == "phase":
                    self._progress.phase(who, *content)
                else:
                    level, name, message = content
                    logging.getLogger(name).log(level, "%s", message)
        self._progress.phase(who, "", 0, None)


class _Speaking(logging.Handler):
    """A worker's end: reports progress and log messages to the parent."""

    def __init__(self, address: Any, key: bytes) -> None:
        super().__init__()
        self._connection = Client(address, authkey=key)

    def _say(self, *content: Any) -> None:
        with contextlib.suppress(OSError):  # the parent is about to end this process
            self._connection.send_bytes(json.dumps(content).encode())

    def phase(self, description: str, done: int, total: int | None) -> None:
        """Report a phase."""
        self._say("phase", description, done, total)

    def emit(self, record: logging.LogRecord) -> None:
        """Report a message."""
        self._say("log", record.levelno, record.name, self.format(record))


def default_jobs(plan: Plan) -> int:
    """Return how many workers a run has unless told: the cores shared out; on a GPU, whose memory they share, one."""
    if plan.device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // plan.threads)


@dataclass
class _State:
    runner: Runner
    tracker: Tracker
    timeout: float | None
    parent: int


_state: _State | None = None
"""Of a worker process."""


def _start(
    plan: Plan, out: Path, cache: Path, overwrite: str, timeout: float | None, parent: int, address: Any, key: bytes
) -> None:
    """Set a worker process up."""
    global _state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(plan.threads)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # what a method printed is there when its process dies
    speaking = _Speaking(address, key)
    logging.basicConfig(level=logging.WARNING, handlers=[speaking], format="%(message)s", force=True)
    for source in plan.plugins:
        load_plugin(source)
    tracker = Tracker(speaking.phase)
    _state = _State(Runner(plan, CellStore(out), ModelCache(cache), overwrite, tracker), tracker, timeout, parent)


def _end_with_parent() -> None:
    """End this process when its parent has gone: nobody would end it, and it would hold its locks."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_any([parent.sentinel])
        os._exit(1)


def _perform(item: Item, max_edges: int) -> bool:
    """Perform a piece in a worker; an error of the file system that gets here is one of the results folder."""
    assert _state is not None
    try:
        return _perform_and_listen(_state, item, max_edges)
    except KeyboardInterrupt as error:  # not the user's, which does not get here
        raise RuntimeError("it raised KeyboardInterrupt") from error
    except OSError as error:
        raise StorageError(
            f"expected a writable folder with room; {_state.runner.store.root}: {error.strerror or error}: make room, "
            "or choose another with --out"
        ) from error


def _perform_and_listen(state: _State, item: Item, max_edges: int) -> bool:
    """Perform a piece; what it prints, and where it stands at the end of its time, goes to a file."""
    runner, tracker = state.runner, state.tracker
    tracker.prefix = f"{describe(item)}: "
    path = _output(runner, item, state.parent)
    path.unlink(missing_ok=True)  # nothing is written through a link
    with _new_output(path) as file, _Bounded(path):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        faulthandler.enable(file)
        if state.timeout is not None and isinstance(item, Cell):
            faulthandler.dump_traceback_later(0.9 * state.timeout, file=file)
        try:
            performed = runner.perform(item, max_edges, wait=False)
        finally:
            faulthandler.cancel_dump_traceback_later()
            faulthandler.disable()
            tracker.end()
            sys.stdout.flush()
            sys.stderr.flush()
    printed = _take_output(path)
    if printed and performed:
        runner.store.add_to_log(runner.key(item), printed)
    return performed


def _new_output(path: Path) -> io.TextIOWrapper:
    """Open a new file to which everything is written at its end, wherever that is by then."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
    return io.TextIOWrapper(io.FileIO(descriptor, "w"), encoding="utf-8", errors="replace", write_through=True)


class _Bounded:
    """Keeps a file that is written to at its end from growing beyond a bound: its beginning goes (a context manager).

    It looks once in a while, so that what is written in between comes on top.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            with contextlib.suppress(OSError):
                if self._path.lstat().st_size > 2 * MAX_OUTPUT:
                    with self._path.open("r+b") as file:
                        file.seek(-MAX_OUTPUT, os.SEEK_END)
                        end = file.read(MAX_OUTPUT)
                        file.truncate(0)
                    with self._path.open("ab") as file:
                        file.write(end)


def _output(runner: Runner, item: Item, parent: int) -> Path:
    """Return where the worker of a parent process writes what a piece prints."""
    folder = runner.store.root / ".output"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{runner.key(item)}-{parent}"


def _take_output(path: Path) -> str:
    """Return the end of what a piece printed, and remove the file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_OUTPUT))
            text = file.read(MAX_OUTPUT).decode(errors="replace")
        path.unlink()
    except OSError:
        return ""
    return text


def _clear_output(runner: Runner) -> None:
    """Remove what workers of killed parents left."""
    for path in (runner.store.root / ".output").glob("*-*"):
        parent = path.name.rpartition("-")[2]
        with contextlib.suppress(OSError):
            if (
                parent.isdecimal()
                and not _runs(int(parent))
                and time.time() - path.lstat().st_mtime > OLD_DRAFT_SECONDS
            ):
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
