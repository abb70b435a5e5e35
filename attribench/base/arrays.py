"""Arrays on disk, read as from a stranger: regular files of bounded size, no pickle, no compression, no surprises.

The format is NumPy's ``npz`` as ``numpy.savez`` writes it. Before anything is allocated, every member must be stored as
it is (a zip bomb is compressed, or lets members share bytes) and be exactly as long as its header says.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from .errors import printable

MAX_ARRAYS_BYTES = 2**34
_MAX_MEMBERS = 100_000
_MAX_HEADER = 4096
_HEADER = re.compile(
    rb"\{'descr': '([<>|=][a-z]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \}[ \n]*"
)
_KINDS = "biuf"
"""Booleans, integers and floating-point numbers."""


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
        size = regular_size(path)
        if size > limit:
            raise DamagedError(f"{path}: {size} bytes; at most {limit} are read")
        if checksum is not None and file_checksum(path) != checksum:  # before anything is taken into memory
            raise DamagedError(f"{path}: the checksum does not match")
        return path.read_bytes()
    except (OSError, ValueError, MemoryError) as error:
        raise DamagedError(f"{path}: {getattr(error, 'strerror', None) or type(error).__name__}") from error


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
    """Write arrays; return the file's SHA-256."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # without the time of day: equal arrays give equal files
            with archive.open(member, "w", force_zip64=True) as file:
                npy.write_array(file, np.asanyarray(array), allow_pickle=False)
    return file_checksum(path)


def read_arrays(path: Path, checksum: str | None = None) -> dict[str, np.ndarray]:
    """Read what :func:`write_arrays` wrote.

    Raises:
        DamagedError: when it is anything else.
    """
    data = read_file(path, MAX_ARRAYS_BYTES, checksum)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS or sum(member.file_size for member in members) > len(data):
                raise DamagedError(f"{path}: its members are larger than the file")
            if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members):
                raise DamagedError(f"{path}: expected members that are not compressed")
            return {m.filename.removesuffix(".npy"): _read_array(archive.read(m), m.filename, path) for m in members}
    except DamagedError:
        raise
    except MemoryError as error:
        raise DamagedError(f"{path}: there is no room for it") from error
    except Exception as error:  # whatever the libraries raise for bytes that are no such file
        raise DamagedError(f"{path}: {type(error).__name__}: {error}") from error


def _read_array(data: bytes, name: str, path: Path) -> np.ndarray:
    start, kind, fortran, shape = _read_header(data, f"{path}: {name}")
    if kind.kind not in _KINDS:
        raise DamagedError(f"{path}: {name}: expected numbers; got {kind}")
    if math.prod(shape) * kind.itemsize != len(data) - start:
        raise DamagedError(f"{path}: {name}: its header speaks of {shape} values of {kind}; there are others")
    flat = np.frombuffer(data, kind, offset=start).copy()
    if kind.kind == "b" and flat.size and flat.view(np.uint8).max() > 1:
        raise DamagedError(f"{path}: {name}: expected truth values")
    return flat.reshape(shape, order="F" if fortran else "C")


def _read_header(data: bytes, what: str) -> tuple[int, np.dtype[Any], bool, tuple[int, ...]]:
    """Return where the values start, their type and order, and the shape. Nothing in a header is evaluated."""
    if data[:6] != npy.MAGIC_PREFIX or tuple(data[6:8]) not in ((1, 0), (2, 0)):
        raise DamagedError(f"{what}: it is no array of version 1 or 2 of the format")
    size_ends = 10 if data[6] == 1 else 12
    start = size_ends + int.from_bytes(data[8:size_ends], "little")
    found = _HEADER.fullmatch(data[size_ends:start]) if start <= min(len(data), _MAX_HEADER) else None
    if found is None:
        raise DamagedError(f"{what}: its header is not one that is written for numbers")
    shape = tuple(int(size) for size in found[3].decode().replace(",", " ").split())
    return start, np.dtype(found[1].decode()), found[2] == b"True", shape
