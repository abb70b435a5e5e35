"""How worker processes are started. Imports nothing heavy, so that it can be done before all else."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

PRELOADED = ["attribench.workers"]


def context() -> BaseContext:
    """Return how processes are started: forked from a server that has imported everything, where there can be one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(PRELOADED)
    return chosen


def warm_up() -> None:
    """Start the server, so that it imports while this process does."""
    if context().get_start_method() == "forkserver":
        forkserver.ensure_running()
