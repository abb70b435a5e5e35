"""How worker processes are started. Imports nothing heavy, so that it can be done before all else."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from types import ModuleType
from typing import Any

PRELOADED = ["attribench.running.worker", "captum.attr", "scipy.stats", "sklearn.metrics"]


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the user's script: processes would run it again as they start, and nothing that travels to them needs it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_PARENT: Any = multiprocessing.get_context(_METHOD)


class _Process(_PARENT.Process):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - multiprocessing's name
        with _without_main():
            return _PARENT.Process._Popen(process_obj)


class _Context(type(_PARENT)):  # type: ignore[misc]
    Process = _Process


def context() -> BaseContext:
    """Return how processes are started: forked from a server that has imported everything, where there can be one."""
    chosen: BaseContext = _Context()
    if _METHOD == "forkserver":
        chosen.set_forkserver_preload(PRELOADED)
    return chosen


def warm_up() -> None:
    """Start the server, so that it imports while this process does. Ctrl-C is not for it, also while it imports."""
    if _METHOD != "forkserver":
        return
    context()
    if threading.current_thread() is not threading.main_thread():
        forkserver.ensure_running()
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)
