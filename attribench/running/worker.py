"""The life of a worker process: it is set up, performs pieces, and ends with its parent."""

from __future__ import annotations

import faulthandler
import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Any

import torch

from ..base.errors import StorageError
from ..base.pieces import Cell, Piece
from ..base.progress import Tracker
from ..plugins.registry import load_plugin
from ..storing.cells import CellStore
from ..storing.models import ModelCache
from .options import Overwrite
from .plan import Plan
from .printed import Bounded, new_output, output, take_output
from .runner import Runner
from .speaking import Speaking


@dataclass
class _State:
    runner: Runner
    tracker: Tracker
    timeout: float | None
    parent: int


_state: _State | None = None
"""Of a worker process."""


def start(
    plan: Plan,
    out: Path,
    cache: Path,
    overwrite: Overwrite,
    timeout: float | None,
    parent: int,
    address: Any,
    key: bytes,
) -> None:
    """Set a worker process up."""
    global _state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(plan.threads)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # what a method printed is there when its process dies
    speaking = Speaking(address, key)
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


def perform(piece: Piece, max_edges: int) -> tuple[float, bool] | None:
    """Perform a piece in a worker; return the seconds of its work and whether a method ran.

    Returns None where another process is at it.

    An error of the file system that gets here is one of the results folder.
    """
    assert _state is not None
    try:
        return _perform_and_listen(_state, piece, max_edges)
    except KeyboardInterrupt as error:  # not the user's, which does not get here
        raise RuntimeError("it raised KeyboardInterrupt") from error
    except OSError as error:
        raise StorageError(
            f"expected a writable folder with room; {_state.runner.store.root}: {error.strerror or error}: make room, "
            "or choose another with --out"
        ) from error


def _perform_and_listen(state: _State, piece: Piece, max_edges: int) -> tuple[float, bool] | None:
    """Perform a piece; what it prints, and where it stands at the end of its time, goes to a file."""
    runner, tracker = state.runner, state.tracker
    worked, ran = runner.worked, runner.ran
    tracker.prefix = f"{piece.title}: "
    path = output(runner, piece, state.parent)
    path.unlink(missing_ok=True)  # nothing is written through a link
    with new_output(path) as file, Bounded(path):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        faulthandler.enable(file)
        if state.timeout is not None and isinstance(piece, Cell):
            faulthandler.dump_traceback_later(0.75 * state.timeout, file=file)  # a busy machine starts late
        try:
            performed = runner.perform(piece, max_edges, wait=False)
        finally:
            faulthandler.cancel_dump_traceback_later()
            faulthandler.disable()
            tracker.end()
            sys.stdout.flush()
            sys.stderr.flush()
    printed = take_output(path)
    if printed and performed:
        runner.store.add_to_log(runner.keys[piece], printed)
    return (runner.worked - worked, runner.ran > ran) if performed else None
