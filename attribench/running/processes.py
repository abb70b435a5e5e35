"""How worker processes are started. Imports nothing heavy, so that it can be done before all else."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

PRELOADED = ["attribench.running.worker"]


def context() -> BaseContext:
    """Return how processes are started: forked from a server that has imported everything, where there can be one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(PRELOADED)
    return chosen


def warm_up() -> None:
    """Start the server, so that it imports while this process does. Ctrl-C is not for it, also while it imports."""
    if context().get_start_method() != "forkserver":
        return
    if threading.current_thread() is not threading.main_thread():
        forkserver.ensure_running()
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)
