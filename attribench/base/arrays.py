"""Arrays on disk in the format of safetensors, read as from a stranger: regular files of bounded size, of numbers."""

from __future__ import annotations

import errno
import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from .errors import printable

MAX_ARRAYS_BYTES = 2**34


class DamagedError(Exception):
    """A file that is missing, is not what it should be, or does not match its checksum; names the file."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def read_file(path: Path, limit: int, checksum: str | None = None) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes, with SHA-256 ``checksum`` where one is given.

    Raises:
        DamagedError: for anything else; a pipe or a device is not opened.
    """
    try:
        _check_file(path, limit, checksum)
        return path.read_bytes()
    except (OSError, ValueError, MemoryError) as error:
        raise _unreadable(path, error) from error


def _check_file(path: Path, limit: int, checksum: str | None) -> None:
    """Refuse a file before anything of it is taken into memory."""
    size = regular_size(path)
    if size > limit:
        raise DamagedError(f"{path}: {size} bytes; at most {limit} are read")
    if checksum is not None and file_checksum(path) != checksum:
        raise DamagedError(f"{path}: the checksum does not match")


def _unreadable(path: Path, error: Exception) -> DamagedError:
    return DamagedError(f"{path}: {getattr(error, 'strerror', None) or type(error).__name__}")


def regular_size(path: Path) -> int:
    """Return the bytes of a regular file.

    Raises:
        OSError: when it is not there, or a folder, pipe or device; these must not be opened: they may never end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return status.st_size


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a regular file.

    Raises:
        OSError: when it is none, or cannot be read.
    """
    regular_size(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> str:
    """Write arrays of numbers, with their order; return the file's SHA-256. Equal arrays give equal files."""
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    native = {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in plain.items()}
    path.write_bytes(save(native, metadata={"names": json.dumps(list(arrays))}))
    return file_checksum(path)


def read_arrays(path: Path, checksum: str | None = None) -> dict[str, np.ndarray]:
    """Read what :func:`write_arrays` wrote.

    Raises:
        DamagedError: when it is anything else.
    """
    try:
        _check_file(path, MAX_ARRAYS_BYTES, checksum)
        with safe_open(path, framework="numpy") as file:
            names = json.loads((file.metadata() or {}).get("names", "null"))
            if not isinstance(names, list) or sorted(map(str, names)) != sorted(file.keys()):
                raise DamagedError(f"{path}: expected the names of its arrays in their order")
            return {str(name): _checked(file.get_tensor(name), f"{path}: {name}") for name in names}
    except DamagedError:
        raise
    except Exception as error:  # whatever the library raises for bytes that are no such file
        raise _unreadable(path, error) from error


def _checked(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise DamagedError(f"{what}: expected truth values")
    return array if array.flags.writeable else array.copy()
