"""Which files are read while something runs: what is read decides a result, and has to be said."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from .arrays import file_checksum
from .errors import UserError

_CODE = {".py", ".pyc", ".pyi", ".so", ".pyd", ".dll"}
_SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/lib", "/usr/lib", "/usr/share/locale", "/usr/share/zoneinfo")
_HARNESS: ContextVar[bool] = ContextVar("_HARNESS", default=False)
"""Whether it is the harness itself that reads, in this thread."""

Read = dict[str, set[str]]
"""Paths of files, and the modules that were being imported when they were read."""


class _Watched:
    """Files that were opened, for reading and for writing."""

    def __init__(self) -> None:
        self.read: Read = {}
        self.written: set[str] = set()


_watching: list[_Watched] = []
"""The innermost comes last. It is the process's: a plugin may read in threads of its own."""


@contextmanager
def files_read() -> Iterator[Read]:
    """Collect the paths of files that are opened for reading, by Python's audit events, in whatever thread.

    Code and files of installed packages and of the system are left out, and so are files that were written before. What
    C++ opens is not seen.
    """
    _install()
    watched = _Watched()
    _watching.append(watched)
    try:
        yield watched.read
    finally:
        _watching.remove(watched)


@contextmanager
def unwatched() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Leave out what the harness itself reads; gives a context in which it is watched as before."""
    before = _HARNESS.get()
    with _set(True):
        yield lambda: _set(before)


@contextmanager
def _set(harness: bool) -> Iterator[None]:
    token = _HARNESS.set(harness)
    try:
        yield
    finally:
        _HARNESS.reset(token)


def refuse_undeclared(who: str, read: Iterable[str], declared: Mapping[str, Path]) -> None:
    """Raise UserError for the first file that was read and is not declared.

    Args:
        who: what read it.
        read: the paths.
        declared: what its ``sources()`` say.
    """
    known = {os.path.realpath(path) for path in declared.values()}
    for path in read:
        if os.path.realpath(path) not in known:
            raise UserError(
                f"{who}: expected files that decide a result to be declared; it read {path!r}: let sources() return "
                "it, so that a change of the file is noticed"
            )


def data_checksum(path: Path) -> str:
    """Return the SHA-256 of a file of a task's data.

    Raises:
        UserError: when it is not there, or no regular file.
    """
    try:
        return file_checksum(path)
    except OSError as error:
        raise UserError(f"expected a file of the data; {path}: {error.strerror}: check --data-dir") from error


def checksums(sources: Mapping[str, Path]) -> dict[str, str]:
    """Return the checksums of declared files.

    Raises:
        UserError: when one is not there.
    """
    found = {}
    for name, path in sources.items():
        try:
            found[name] = file_checksum(Path(path))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"expected the file of {name!r}; {path}: {reason}: check the path") from None
    return found


@cache
def _install() -> None:
    sys.addaudithook(_hear)  # which cannot be taken away; it does nothing while nothing is watched


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open":
        return
    if not _watching or _HARNESS.get():
        return
    watched = _watching[-1]
    path, mode, flags = arguments
    if not isinstance(path, str | bytes | os.PathLike):
        return
    name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - called for every file
    writes = bool(set(mode) & set("wx")) if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_CREAT))
    reads = not writes and mode != "a" and mode != "ab"
    if not reads:
        watched.written.add(name)
    elif name not in watched.written and not _aside(name):
        watched.read.setdefault(name, set()).update(_importing())


def _importing() -> Iterator[str]:
    """Yield the names of the modules that are being imported, from the innermost outwards."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            yield str(frame.f_globals.get("__name__"))
        frame = frame.f_back


@cache
def _own_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return (*_SYSTEM, *(paths[kind] for kind in ("stdlib", "purelib", "platlib")))


def _aside(name: str) -> bool:
    """Say whether a file is code, or the system's."""
    if os.path.splitext(name)[1] in _CODE or not os.path.isfile(name):  # noqa: PTH113, PTH122 - called for every file
        return True
    if f"{os.sep}site-packages{os.sep}" in name or f"{os.sep}dist-packages{os.sep}" in name:
        return True  # wherever packages are installed: a user's folder, the system's, one that a .pth file names
    return any(name.startswith(folder + os.sep) for folder in _own_folders())
