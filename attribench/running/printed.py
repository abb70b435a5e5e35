"""What a piece prints while a worker performs it: kept in a file, and no more than its end."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from pathlib import Path
from typing import Any

from ..base.notes import OLD_DRAFT_SECONDS
from ..base.pieces import Piece
from ..base.reading import unwatched
from .runner import Runner

MAX_OUTPUT = 100_000
"""Bytes kept of what a piece printed, from its end."""

LOOK_SECONDS = 0.2
"""How often to look whether a piece has printed more than twice that."""


def new_output(path: Path) -> io.TextIOWrapper:
    """Open a new file to which everything is written at its end, wherever that is by then."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
    return io.TextIOWrapper(io.FileIO(descriptor, "w"), encoding="utf-8", errors="replace", write_through=True)


class Bounded:
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
            with contextlib.suppress(OSError), unwatched():  # it is not the plugin that reads
                if self._path.lstat().st_size > 2 * MAX_OUTPUT:
                    with self._path.open("r+b") as file:
                        file.seek(-MAX_OUTPUT, os.SEEK_END)
                        end = file.read(MAX_OUTPUT)
                        file.truncate(0)
                    with self._path.open("ab") as file:
                        file.write(end)


def output(runner: Runner, piece: Piece, parent: int) -> Path:
    """Return where the worker of a parent process writes what a piece prints."""
    folder = runner.store.root / ".output"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{runner.keys[piece]}-{parent}"


def take_output(path: Path) -> str:
    """Return the end of what a piece printed, and remove the file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_OUTPUT))
            text = file.read(MAX_OUTPUT).decode(errors="replace")
        path.unlink()
    except OSError:
        return ""
    return text


def clear_output(runner: Runner) -> None:
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
