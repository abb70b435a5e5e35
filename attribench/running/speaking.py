"""Progress and log messages from worker processes to their parent, over a socket each."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import threading
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from ..base.progress import Progress


class Listening:
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


class Speaking(logging.Handler):
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
