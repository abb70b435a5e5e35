"""Hostile files and what may be done to a tiny run's folder, for the tests of hostile files."""

import contextlib
import io
import json
import os
import pickle
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from attribench.base.arrays import read_arrays, write_arrays
from attribench.base.files import digest

KEY = "0123456789abcdef" * 2
SECONDS = 60
MIB = 2**20

Change = Callable[[Any], object]


class Hung(BaseException):
    """No handler of the code under test catches this."""


def resident_peak() -> int:
    """Return the most bytes that this process has held since the peak was forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@contextlib.contextmanager
def guarded(mebibytes: int = 256) -> Iterator[None]:
    """Assert that what is inside neither waits for ever nor takes more memory than this, whatever it catches."""
    import resource

    def end(number: int, frame: FrameType | None) -> None:
        raise Hung

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, end)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = resident_peak()
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + mebibytes * MIB, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        assert resident_peak() - before < 3 * mebibytes * MIB // 4


def assert_clear(message: str) -> None:
    """Assert that this is one line that a terminal shows as it is, about the file and not about memory."""
    assert message
    assert message.isprintable(), repr(message)
    assert "memory" not in message.lower()


class Bomb:
    """Makes a folder where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


PICKLE = pickle.dumps(Bomb())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return the files below a folder with what is in them; links, pipes and folders count as they are."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() and not path.is_symlink() else None
            for name, path in paths.items() if path.stat(follow_symlinks=False).st_size < MIB}  # fmt: skip


# Arrays.


def file_of(header: object, body: bytes = bytes(8), size: int | None = None) -> bytes:
    """Return a file of safetensors: the size of its header, the header, and the bytes of the arrays."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def header_of(
    kind: str = "F32", shape: object = (2,), start: int = 0, end: int = 8, **more: object
) -> dict[str, object]:
    named = {"__metadata__": {"names": '["test/scores"]'}}
    return {**named, "test/scores": {"dtype": kind, "shape": shape, "data_offsets": [start, end]}, **more}


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def npz_of(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, array)
    return buffer.getvalue()


VALID = file_of(header_of())
SHARED = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
FILES = {
    "a pickle": PICKLE,
    "an archive of arrays": npz_of(np.zeros(3)),
    "an archive of pickled objects": npz_of(np.array([{}], dtype=object)),
    "nothing": b"",
    "half a file": VALID[: len(VALID) // 2],
    "a file without its end": VALID[:-1],
    "a file without its start": VALID[8:],
    "too many bytes": VALID + b"1",
    "a kind that there is not": file_of(header_of("F77")),
    "a kind that numpy does not know": file_of(header_of("F8_E5M2", (8,))),
    "truth values above 1": file_of(header_of("BOOL", (8,)), bytes([0, 1, 2, 255, 1, 0, 1, 0])),
    "a trillion numbers": file_of(header_of(shape=(10**12,))),
    "more numbers than can be counted": file_of(header_of(shape=(2**62, 2**62))),
    "a negative size": file_of(header_of(shape=(-2,))),
    "a size that is no whole number": file_of(header_of(shape=(2.5,))),
    "a shape that is no list": file_of(header_of(shape=2)),
    "bytes that lie outside the file": file_of(header_of(start=2**40, end=2**40 + 8)),
    "bytes that end before they start": file_of(header_of(start=8, end=0)),
    "arrays that share bytes": file_of(header_of(other=SHARED)),
    "bytes of no array": file_of(header_of(), bytes(16)),
    "a header that says it is longer": file_of(header_of(), size=2**63),
    "a header of megabytes": file_of(b" " * 128 * MIB),
    "a header of brackets": file_of(nested(9000).encode()),
    "a header that is no text": file_of(b"\xff" * 20),
    "a header that is no table": file_of([1, 2]),
    "no names": file_of({"test/scores": SHARED}),
    "names of other arrays": file_of({**header_of(), "__metadata__": {"names": '["other"]'}}),
    "names that are none": file_of({**header_of(), "__metadata__": {"names": "{"}}),
    "names that are numbers": file_of({**header_of(), "__metadata__": {"names": "[1]"}}),
    "an array without a name": file_of(header_of(other={"dtype": "F32", "shape": [0], "data_offsets": [8, 8]})),
    "a name of two lines": file_of({"scores\n\x1b[2Jerror: nothing": SHARED}),
}

# JSON.


def checked(content: Any) -> bytes:
    return json.dumps({"checksum": digest(content), "content": content}).encode()


TEXTS = {
    "nothing": b"",
    "no JSON": b"status: ok",
    "half": checked({"status": "ok"})[:-2],
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"17",
    "only the checksum": json.dumps({"checksum": digest(None)}).encode(),
    "only the content": b'{"content": {"status": "ok"}}',
    "no checksum": json.dumps({"checksum": None, "content": {"status": "ok"}}).encode(),
    "another checksum": checked({"status": "ok"}).replace(b'"ok"', b'"no"'),
    "a checksum that is a list": json.dumps({"checksum": [], "content": {"status": "ok"}}).encode(),
    "lists in lists": b'{"checksum": "", "content": ' + nested(100_000).encode() + b"}",
    "objects in objects": b'{"content": ' * 100_000,
    "a number of many digits": b'{"checksum": "", "content": ' + b"9" * 100_000 + b"}",
    "bytes that are no text": checked({"status": "ok"}).replace(b"ok", b"\xff\xfe"),
    "a pickle": PICKLE,
    "much, of little": b"[" + b"[]," * (8 * MIB) + b"[]]",
}


# A results folder: what is damaged is made again.

TINY = [
    *("--set", "toy.train=100", "--set", "toy.validation=12", "--set", "toy.test=10", "--set", "toy.colours=3"),
    *("--set", "toy.width=4", "--set", "toy.hidden=8", "--set", "toy.epochs=2"),
    *("--methods", "integrated-gradients", "--set", "integrated-gradients.steps=3", "--jobs", "0"),
    *("--out", "r", "--cache-dir", "c"),
]


class Folder:
    """A copy of the tiny run that a test may change."""

    def __init__(self, root: Path) -> None:
        self.run = root / "r"
        (self.cell,) = (path for path in (self.run / "cells").iterdir() if "problem" not in path.name)
        (self.problem,) = (self.run / "cells").glob("problem-*")
        (self.model,) = (path for path in (root / "c" / "models").iterdir() if path.is_dir())

    def file(self, name: str) -> Path:
        """Return a file by what it is."""
        return {
            "record": self.cell / "record.json",
            "attributions": self.cell / "attributions.safetensors",
            "scores": self.cell / "scores" / "scores.json",
            "per graph": self.cell / "scores" / "per_graph.safetensors",
            "problem": self.problem / "scores" / "scores.json",
            "problem per graph": self.problem / "scores" / "per_graph.safetensors",
            "model": self.model / "model.json",
            "weights": self.model / "weights.safetensors",
        }[name]

    def unscored(self) -> None:
        """Remove all scores, so that attributions and model are needed again."""
        for folder in (self.cell, self.problem):
            shutil.rmtree(folder / "scores")

    def change(self, name: str, change: Change) -> None:
        """Change what a JSON file says; its checksum is right."""
        content = json.loads(self.file(name).read_bytes())["content"]
        change(content)
        self.file(name).write_bytes(checked(content))

    def change_arrays(self, name: str, change: Change) -> None:
        """Change a file of arrays; its checksum is right."""
        arrays = read_arrays(self.file(name))
        change(arrays)
        checksum = write_arrays(self.file(name), arrays)
        described_by = {"attributions": "record", "per graph": "scores", "problem per graph": "problem"}[name]
        self.change(described_by, lambda content: content.update(checksum=checksum))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def large(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def small(path: Path) -> None:
    path.touch()


SPECIAL = [pipe, endless, Path.mkdir, loop, large, small]


def put_in(names: str, value: Any) -> Change:
    """Return what sets an element in nested containers; a value of None removes it."""
    *path, last = [int(name) if name.isdigit() else name for name in names.split(".")]

    def change(content: Any) -> None:
        for name in path:
            content = content[name]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return change


def each(**changes: Callable[[Any], Any]) -> Change:
    """Return what replaces arrays by what functions make of them; ``test__scores`` is ``test/scores``."""

    def change(arrays: dict[str, Any]) -> None:
        for name, function in changes.items():
            name = name.replace("__", "/")
            array = function(arrays[name].copy() if name in arrays else arrays)
            if array is None:
                del arrays[name]
            else:
                arrays[name] = array

    return change


def with_value(value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array.flat[-1] = value
        return array

    return change


def made(*shape: int, dtype: str = "float32") -> Callable[[Any], Any]:
    return lambda _: np.zeros(shape, dtype)
