"""Lines of text files that others made: regular files, plain or packed with gzip, within bounds."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from attribench.base.arrays import regular_size
from attribench.base.errors import UserError

MAX_LINE_BYTES = 2**20


def read_lines(path: Path, kind: str, max_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a file with their ends; one whose name ends in ``.gz`` is unpacked.

    Args:
        path: of the file.
        kind: what is expected, for messages: "a CoNLL-2009 file".
        max_bytes: of the unpacked text.

    Raises:
        UserError: when it is no regular file, cannot be read, or when a line or the whole is too long.
    """
    total = 0
    try:
        regular_size(path)
        with path.open("rb") as raw:
            file: BinaryIO = raw
            if path.suffix == ".gz":
                file = io.BufferedReader(gzip.GzipFile(fileobj=raw), 2**16)
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                total += len(line)
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(
                        f"expected {kind} with lines of at most {MAX_LINE_BYTES} bytes; {path}: line {number} "
                        "is longer: check the file"
                    )
                if total > max_bytes:
                    raise UserError(f"expected {kind} of at most {max_bytes} bytes; {path} holds more: split the file")
                yield line
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"expected {kind}; {path}: {reason}: check the path and the file") from error
