"""Hostile files: refused in one line, without being run, waited for, or given much memory.

What is damaged in a results folder or in the cache of models is named in a warning and made again.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attribench.base.arrays import DamagedError, read_arrays, write_arrays
from attribench.base.errors import UserError
from attribench.base.files import digest, read_json, remove_old_drafts
from attribench.cli import main
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel
from attribench.plugins.configs import read_config
from attribench.plugins.method import Attribution
from attribench.plugins.registry import METHODS, TASKS, Registry, load_plugin
from attribench.plugins.task import Task
from attribench.running.pool import Workers
from attribench.running.runner import Runner
from attribench.storing.cells import CellStore
from attribench.storing.models import ModelCache

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded and counted as on Linux")

CPU = torch.device("cpu")
KEY = "0123456789abcdef" * 2
SECONDS = 60
MIB = 2**20

Cli = Callable[..., tuple[int, str, str]]
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


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder; nothing may explode there."""
    monkeypatch.chdir(tmp_path)
    with guarded(2048):
        yield tmp_path
    assert not (tmp_path / "exploded").exists()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in this process; return exit code, standard output and error."""
    list(METHODS), list(TASKS)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attribench", *arguments])
        with pytest.raises(SystemExit) as exit_info, guarded(1024):
            main()
        captured = capsys.readouterr()
        return int(exit_info.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Assert that a command is refused with one clear line and does nothing; return the line."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was done")

    for owner, name in ((Runner, "problem"), (Runner, "perform"), (Runner, "rescore"), (Workers, "perform")):
        monkeypatch.setattr(owner, name, refuse)
    set_num_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: set_num_threads(n) if n < 1000 else refuse())

    def call(*arguments: str) -> str:
        before = tree(Path())
        code, out, err = cli(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert_clear(err[:-1])
        assert len(err) < 2000
        assert tree(Path()) == before
        return err

    return call


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


def test_the_file_that_the_others_are_made_of_is_read(tmp_path: Path) -> None:
    (tmp_path / "arrays.safetensors").write_bytes(VALID)
    assert read_arrays(tmp_path / "arrays.safetensors")["test/scores"].tolist() == [0, 0]


@pytest.mark.parametrize("name", FILES)
def test_arrays_are_read_from_nothing_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / "arrays.safetensors"
    path.write_bytes(FILES[name])
    with pytest.raises(DamagedError) as error, guarded():
        read_arrays(path)
    assert str(error.value).startswith(f"{path}: ")
    assert_clear(str(error.value))


def test_what_is_not_hostile_is_read(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    arrays: dict[str, Any] = {
        "by-columns": np.asfortranarray(values),
        "by-rows": values,
        "part": values[:, ::2],
        "alone": np.float32(3),
        "none": np.zeros((3, 0)),
        "other/end": values.astype(">f4"),
        "truth": values > 3,
    }
    write_arrays(tmp_path / "ours", arrays)
    read = read_arrays(tmp_path / "ours")
    assert list(read) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(read[key], array)
        assert read[key].dtype == array.dtype.newbyteorder("=")
        assert read[key].flags.writeable


def test_a_file_that_takes_no_space_on_disk_takes_none_in_memory(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.save(
        KEY, {"status": "ok", "reason": "", "costs": {}, "figures": {}}, {"test": Attribution(torch.zeros(1, 3))}, ""
    )
    record = store.record(KEY)
    assert record is not None
    os.truncate(store.cells / KEY / "attributions.safetensors", 1024 * MIB)
    with pytest.raises(DamagedError, match=r"attributions\.safetensors: the checksum does not match"), guarded():
        store.attributions(KEY, record, CPU)


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


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("file", ["record.json", "scores/scores.json"])
def test_a_file_that_is_no_checked_json_counts_as_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, name: str
) -> None:
    store = CellStore(tmp_path)
    path = store.cells / KEY / file
    path.parent.mkdir(parents=True)
    path.write_bytes(TEXTS[name])
    with guarded():
        assert (store.record(KEY) if file == "record.json" else store.scores(KEY, "s")) is None
    assert str(path) in caplog.text
    assert "made again" in caplog.text


def test_no_depth_of_nesting_passes_the_reader_and_fails_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "cells" / KEY / "record.json"
    path.parent.mkdir(parents=True)
    for depth in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit(), 2):
        path.write_text(f'{{"checksum": "", "content": {nested(depth)}}}')
        assert CellStore(tmp_path).record(KEY) is None


@pytest.mark.parametrize("status", [None, 0, True, ["ok"], {"ok": 1}, 1e400, "ok"])
def test_a_status_that_is_no_text_is_no_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: object
) -> None:
    path = tmp_path / "cells" / KEY / "record.json"
    path.parent.mkdir(parents=True)
    record = {"status": status, "reason": "", "costs": {}, "figures": {}, "attributions": {}, "checksum": None}
    path.write_bytes(checked(record))
    found = CellStore(tmp_path).record(KEY)
    assert (found and found.model_dump(exclude_unset=True)) == (record if status == "ok" else None)
    assert (f"{path} is damaged" in caplog.text) == (status != "ok")


def test_json_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(DamagedError, match=r"run\.json: 1099511627776 bytes; at most \d+ are read"), guarded():
        read_json(path)


# A results folder: what is damaged is made again.

TINY = [
    *("--set", "toy.train=100", "--set", "toy.validation=12", "--set", "toy.test=10", "--set", "toy.colours=3"),
    *("--set", "toy.width=4", "--set", "toy.hidden=8", "--set", "toy.epochs=2"),
    *("--methods", "integrated-gradients", "--set", "integrated-gradients.steps=3", "--jobs", "0"),
    *("--out", "r", "--cache-dir", "c"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the results of a tiny run and its cache of models."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["attribench", "run", *TINY])
        with pytest.raises(SystemExit) as exit_info:
            main()
    assert exit_info.value.code == 0
    return root


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


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Folder:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return Folder(tmp_path)


@pytest.fixture
def made_again(cli: Cli, finished: Path, folder: Folder, caplog: pytest.LogCaptureFixture) -> Callable[[Path], None]:
    """Assert that the run says what is damaged, and gives what it gave before; and that the next has nothing to do."""

    def call(path: Path) -> None:
        code, _, err = cli("run", *TINY)
        warnings = [record.getMessage() for record in caplog.records]
        assert code == 0, (err, warnings)
        assert any(str(path.relative_to(path.cwd())) in message for message in warnings), warnings
        for message in warnings:
            assert_clear(message)
        for name in ("scores.csv", "per_graph.csv", "layers.csv", "tasks.csv", "comparison.csv"):
            assert (folder.run / name).read_bytes() == (finished / "r" / name).read_bytes(), name
        before = Folder(finished).file("attributions").read_bytes()
        assert folder.file("attributions").read_bytes() == before
        caplog.clear()
        assert cli("run", *TINY)[0] == 0
        assert not caplog.records

    return call


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


@pytest.mark.parametrize("put", SPECIAL)
@pytest.mark.parametrize("name", ["record", "attributions", "scores", "per graph", "problem", "model", "weights"])
def test_what_is_no_file_is_replaced(
    folder: Folder, made_again: Callable[[Path], None], name: str, put: Callable[[Path], None]
) -> None:
    if name in ("attributions", "model", "weights"):
        folder.unscored()
    path = folder.file(name)
    path.unlink()
    put(path)
    made_again(path.parent if name == "per graph" else path)


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


GRAPHS = 10
WRONG_ARRAYS: dict[str, Change] = {
    "no number": each(test__scores=with_value(float("nan"))),
    "infinity": each(test__scores=with_value(float("inf"))),
    "infinity among validation graphs": each(validation__scores=with_value(float("-inf"))),
    "no number for shuffled weights": each(randomised__scores=with_value(float("nan"))),
    "one edge fewer": each(test__scores=lambda x: x[:, 1:]),
    "validation of other edges": each(validation__scores=lambda x: x[:, 1:]),
    "shuffled weights of other edges": each(randomised__scores=lambda x: x[:, 1:]),
    "one layer more": each(test__scores=lambda x: np.concatenate([x, x])),
    "no layer": each(test__scores=lambda x: x[:0]),
    "one axis": each(test__scores=lambda x: x[0]),
    "three axes": each(test__scores=lambda x: x[None]),
    "no axis": each(test__scores=made()),
    "rows without end": each(test__scores=made(10**12, 0)),
    "no scores": each(test__scores=lambda _: None),
    "no validation scores": each(validation__scores=lambda _: None),
    "scores that are whole numbers": each(test__scores=lambda x: x.astype("int64")),
    "scores that are small whole numbers": each(test__scores=lambda x: x.astype("uint16")),
    "scores that are truth values": each(test__scores=lambda x: x > 0),
    "scores of the other byte order": each(test__scores=lambda x: x.astype(">f4")),
    "scores of more digits": each(test__scores=lambda x: x.astype("longdouble")),
    "a mask of other edges": each(test__hard_mask=made(1, 3, dtype="bool")),
    "a mask of numbers": each(test__hard_mask=lambda a: np.ones_like(a["test/scores"])),
    "graphs finished by numbers": each(test__complete=made(GRAPHS)),
    "other graphs finished": each(test__complete=made(GRAPHS + 1, dtype="bool")),
    "figures of other graphs": each(test__diagnostic__mine=made(GRAPHS - 1)),
    "a figure that is no number": each(test__diagnostic__mine=lambda _: np.full(GRAPHS, np.nan)),
    "a baseline for no layer": each(test__baseline__0=made(4), test__baseline__1=made(4)),
    "a baseline of other graphs": each(test__baseline__0=made(GRAPHS + 1, 4)),
    "a baseline of another width": each(test__baseline__0=made(5)),
    "a baseline that is no number": each(test__baseline__0=lambda _: np.full(4, np.inf, "float32")),
    "a baseline that is named otherwise": each(test__baseline__7=made(4)),
}
WRONG_RECORDS: dict[str, Change] = {
    "gates outside 0 and 1": put_in("attributions.test.scale", "gate"),
    "a scale that there is not": put_in("attributions.test.scale", "evil"),
    "a scale that is a list": put_in("attributions.test.scale", ["relative"]),
    "no scale": put_in("attributions.test.scale", None),
    "text for one mask": put_in("attributions.test.per_layer", "no"),
    "no test attributions": put_in("attributions.test", None),
    "no validation attributions": put_in("attributions.validation", None),
    "attributions of nothing": put_in("attributions.test", []),
    "attributions in a list": put_in("attributions", ["test"]),
    "no attributions": put_in("attributions", None),
    "no checksum": put_in("checksum", None),
    "a checksum that is a number": put_in("checksum", 17),
    "figures in a list": put_in("figures", [1]),
    "a figure that is text": put_in("figures.mine", "much"),
    "no figures": put_in("figures", None),
    "costs in a list": put_in("costs", [1]),
    "costs that are text": put_in("costs.method", "much"),
    "no costs": put_in("costs", None),
    "a reason that is a list": put_in("reason", ["none"]),
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_attributions_that_cannot_be_these_are_made_again(
    folder: Folder, made_again: Callable[[Path], None], name: str
) -> None:
    folder.change_arrays("attributions", WRONG_ARRAYS[name])
    folder.unscored()
    made_again(folder.cell)


@pytest.mark.parametrize("name", WRONG_RECORDS)
def test_a_record_that_cannot_be_one_is_made_again(
    folder: Folder, made_again: Callable[[Path], None], name: str
) -> None:
    folder.change_arrays("attributions", each(test__scores=lambda x: x * 100 + 2))  # no gates
    folder.change("record", WRONG_RECORDS[name])
    folder.unscored()
    made_again(folder.cell)


WRONG_SCORES: dict[str, Change] = {
    "no rows": put_in("rows", []),
    "rows that are none": put_in("rows", [3]),
    "rows in an object": put_in("rows", {"0": {}}),
    "a row of more": put_in("rows.0.evil", 1),
    "a row without a name": put_in("rows.0.method", None),
    "a name that is a number": put_in("rows.0.method", 3),
    "a kind that there is not": put_in("rows.0.kind", "evil"),
    "figures in a list": put_in("rows.0.figures", [1]),
    "a figure that is a list": put_in("rows.0.figures.f1", [1, 2]),
    "a figure that is text": put_in("rows.0.figures.f1", "much"),
    "layers that are none": put_in("rows.0.layers", 3),
    "a layer that is none": put_in("rows.0.layers", [3]),
    "a layer that there is not": put_in("rows.0.layers.0.layer", 99),
    "a layer that is no number": put_in("rows.0.layers.0.layer", "first"),
    "unfinished graphs that are text": put_in("rows.0.unfinished", "all"),
    "a status that is a number": put_in("status", 3),
    "a log that is a list": put_in("log", [3]),
    "no figures": put_in("figures", None),
    "ablations that are text": put_in("ablations", "none"),
}
COLUMNS: dict[str, Change] = {
    "a row that there is not": each(**{"7/graph": made(GRAPHS)}),
    "a row before the first": each(**{"-1/graph": made(GRAPHS)}),
    "a row without a number": each(**{"x/graph": made(GRAPHS)}),
    "a path": each(**{"../evil": made(GRAPHS)}),
    "no name": each(**{"": made(GRAPHS)}),
    "a name without a row": each(graph=made(GRAPHS)),
    "more graphs": each(**{"0/graph": made(GRAPHS + 1)}),
    "several values for a graph": each(**{"0/graph": made(GRAPHS, 2)}),
    "one value": each(**{"0/graph": made()}),
    "several values for every graph": lambda columns: columns.update(
        {name: np.stack([x, x], 1) for name, x in columns.items() if name.startswith("0/")}
    ),
}


@pytest.mark.parametrize("name", WRONG_SCORES)
def test_scores_that_cannot_be_these_are_made_again(
    folder: Folder, made_again: Callable[[Path], None], name: str
) -> None:
    folder.change("scores", WRONG_SCORES[name])
    made_again(folder.file("scores").parent)


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_that_cannot_be_these_are_made_again(
    folder: Folder, made_again: Callable[[Path], None], name: str
) -> None:
    folder.change_arrays("per graph", COLUMNS[name])
    made_again(folder.file("per graph").parent)


@pytest.mark.parametrize("change", [put_in("rows.0.layers", []), put_in("figures.test", "much"), put_in("rows", [3])])
def test_scores_of_a_problem_that_cannot_be_these_are_made_again(
    folder: Folder, made_again: Callable[[Path], None], change: Change
) -> None:
    folder.change("problem", change)
    made_again(folder.file("problem").parent)


@pytest.mark.parametrize("ablations", [[], ["much"], [[1]], [1, 2, 3]])
def test_ablations_are_one_number_a_layer(
    folder: Folder, made_again: Callable[[Path], None], ablations: list[Any]
) -> None:
    folder.change("problem", put_in("ablations", ablations))
    made_again(folder.file("problem").parent)


@pytest.mark.parametrize(("file", "arrays"), [("scores", "per graph"), ("problem", "problem per graph")])
def test_scores_without_any_row_are_made_again(
    folder: Folder, made_again: Callable[[Path], None], file: str, arrays: str
) -> None:
    folder.change_arrays(arrays, lambda columns: columns.clear())
    folder.change(file, put_in("rows", []))
    made_again(folder.file(file).parent)


def test_more_layers_than_the_problem_has_end_no_report(folder: Folder, cli: Cli) -> None:
    folder.change("scores", lambda scores: scores["rows"][0]["layers"].append({"layer": 1}))
    assert cli("run", *TINY)[0] in (0, 1)


def test_score_names_what_is_damaged_and_runs_no_method(
    folder: Folder, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METHODS["integrated-gradients"], "attribute", None)
    for name in ("a pickle", "an archive of pickled objects", "a trillion numbers", "nothing"):
        data = FILES[name]
        folder.file("attributions").write_bytes(data)
        for words in ("attributions.safetensors: the checksum does not match", "attributions.safetensors"):
            code, out, err = cli("score", "r", "--cache-dir", "c")
            assert code == 1
            assert words.replace(" ", "") in "".join(out.split())
            assert "Traceback" not in err
            folder.change("record", put_in("checksum", hashlib.sha256(data).hexdigest()))
        folder.change("record", put_in("checksum", ""))


@pytest.mark.parametrize("field", ["status", "reason"])
@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;evil\x07", "two\nlines", "\ud800"])
def test_what_a_record_says_cannot_drive_the_terminal(folder: Folder, cli: Cli, field: str, text: str) -> None:
    folder.change("record", lambda record: record.update({"status": "failed", field: text}))
    code, out, err = cli("score", "r", "--cache-dir", "c")
    assert code in (1, 2)
    assert "\x1b" not in out + err
    assert "Traceback" not in err


# The cache of models.


class Model(GraphModel):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        raise NotImplementedError


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def other_weights(change: Change) -> Any:
    state: dict[Any, Any] = {name: x + 1 for name, x in Model().state_dict().items()}
    change(state)
    return state


def kept(state: dict[str, Any]) -> bytes:
    """Return weights as the cache keeps them."""
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(Path(folder) / "weights.safetensors", {name: np.asarray(value) for name, value in state.items()})
        return (Path(folder) / "weights.safetensors").read_bytes()


def weights() -> dict[str, bytes]:
    good = kept(other_weights(list))
    return {
        "an empty file": b"",
        "half a file": good[: len(good) // 2],
        "a bare pickle": PICKLE,
        "a pickled object": saved(Bomb()),
        "weights as torch saves them": saved(other_weights(list)),
        "a pickled object among weights": saved(other_weights(lambda state: state.update(bomb=Bomb()))),
        "a pickle in the old format": saved(Bomb(), _use_new_zipfile_serialization=False),
        "arrays": VALID,
        "a list": saved([torch.zeros(2)]),
        "a number": saved(3),
        "numbers for names": kept(other_weights(lambda state: state.update({"3": torch.zeros(2)}))),
        "another shape": kept(other_weights(lambda state: state.update({"second.bias": torch.zeros(3)}))),
        "a weight that is missing": kept(other_weights(lambda state: state.pop("second.bias"))),
        "a weight too many": kept(other_weights(lambda state: state.update(third=torch.zeros(2)))),
    }


WEIGHTS = weights()


def store_model(cache: ModelCache, data: bytes, described: Any = None) -> Path:
    path = cache.folder / "m"
    path.mkdir()
    (path / "weights.safetensors").write_bytes(data)
    content = {"checksum": hashlib.sha256(data).hexdigest(), "figures": {"epochs": 2.0}}
    (path / "model.json").write_bytes(checked(content if described is None else described))
    return path


def assert_trained_again(cache: ModelCache, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that training starts from the model as it was, and that what is kept of it can be loaded."""
    model, same = Model(), Model()
    same.load_state_dict(model.state_dict())
    with guarded():
        assert cache.load_or_train("m", model, lambda: {"epochs": 1.0}) == {"epochs": 1.0}
    for name, value in model.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    (message,) = [record.getMessage() for record in caplog.records]
    assert_clear(message)
    assert str(path) in message
    assert cache.load_or_train("m", Model(), dict) == {"epochs": 1.0}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_cannot_be_these_are_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    cache = ModelCache(tmp_path)
    path = store_model(cache, WEIGHTS[name])
    assert_trained_again(cache, path / "weights.safetensors", caplog)


def test_no_weights_are_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, lambda *_, **__: called.append("unpickled"))
    for i, data in enumerate(WEIGHTS.values()):
        cache = ModelCache(tmp_path / str(i))
        store_model(cache, data)
        assert cache.load_or_train("m", Model(), lambda: {"epochs": 1.0}) == {"epochs": 1.0}
    assert not called


@pytest.mark.parametrize(
    "described",
    [
        [],
        "text",
        {},
        {"checksum": "0" * 64, "figures": {}},
        *({"figures": figures} for figures in ([1], "text", None, [["a", 1]], {"epochs": "many"}, {"epochs": [1]})),
    ],
)
def test_a_model_that_is_described_otherwise_is_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, described: Any
) -> None:
    cache, data = ModelCache(tmp_path), kept(other_weights(list))
    if isinstance(described, dict) and described:
        described = {"checksum": hashlib.sha256(data).hexdigest(), **described}
    path = store_model(cache, data, described)
    assert_trained_again(cache, path, caplog)


# What is given on the command line: run.json, configurations, studies, plugins.


BAD_PLANS: dict[str, tuple[Change, str]] = {
    "no plan": (put_in("plan", None), "plan"),
    "a plan that is a list": (put_in("plan", []), "valid dictionary"),
    "no keys": (put_in("cells", None), "cells"),
    "an unknown field": (put_in("plan.evil", 1), "evil"),
    "a field of two lines": (put_in("plan.evil\n\x1b[2Jerror: none", 1), "evil"),
    "a very long field": (put_in("plan." + "e" * 10_000, 1), "eee"),
    "tasks that are text": (put_in("plan.tasks", "toy"), "tasks"),
    "a task that is a number": (put_in("plan.tasks", [3]), "tasks"),
    "a task that is a path": (lambda run: run["plan"].update(tasks=["../evil"], overrides={}), "'../evil'"),
    "a method that is a path": (lambda run: run["plan"].update(methods=["/evil"], overrides={}), "'/evil'"),
    "no tasks": (lambda run: (run["plan"].update(tasks=[], overrides={}), run.update(cells=[])), "expected"),
    "no seeds": (lambda run: (run["plan"].update(seeds=[]), run.update(cells=[])), "expected"),
    "seeds that are text": (put_in("plan.seeds", ["zero"]), "seeds"),
    "half a seed": (put_in("plan.seeds", [0.5]), "seeds"),
    "options in a list": (put_in("plan.overrides", []), "overrides"),
    "options that are none": (put_in("plan.overrides.toy", 3), "overrides.toy"),
    "options of another plugin": (put_in("plan.overrides.evil", {}), "'evil'"),
    "an option out of range": (put_in("plan.overrides.toy.colours", 1), "toy.colours"),
    "an option of lists in lists": (put_in("plan.overrides.toy.colours", json.loads(nested(900))), ""),
    "a device to be chosen": (put_in("plan.device", "auto"), "'auto'"),
    "a device that is none": (put_in("plan.device", "../evil"), "'../evil'"),
    "a device that is a number": (put_in("plan.device", 3), "device"),
    "no threads": (put_in("plan.threads", 0), "threads"),
    "fewer threads than none": (put_in("plan.threads", -1), "threads"),
    "too many threads": (put_in("plan.threads", 10**6), "threads"),
    "more threads than can be counted": (put_in("plan.threads", 10**30), "threads"),
    "no edges": (put_in("plan.max_edges", 0), "max_edges"),
    "fewer graphs than none": (put_in("plan.randomised_graphs", -1), "randomised_graphs"),
    "plugins that are a number": (put_in("plan.plugins", 3), "int"),
    "plugins that are numbers": (put_in("plan.plugins", [3]), "3"),
    "plugins that are text": (put_in("plan.plugins", "evil.py"), "plugins"),
    "too few keys": (put_in("cells", []), "keys of 1 cells"),
    "too many keys": (put_in("cells", [KEY, KEY]), "keys of 1 cells"),
    "keys in an object": (put_in("cells", {KEY: 1}), "keys of 1 cells"),
    "a key that is text": (put_in("cells", KEY), "keys of 1 cells"),
    "a key that is a number": (put_in("cells", [3]), "keys of 1 cells"),
    "a key that is a path": (put_in("cells", ["../../evil"]), "keys of 1 cells"),
    "a key that ends in a path": (put_in("cells", [f"{KEY}/../../../evil"]), "keys of 1 cells"),
    "a key that ends in a line": (put_in("cells", [f"{KEY}\n"]), "keys of 1 cells"),
    "billions of cells": (
        lambda run: run["plan"].update(
            tasks=["toy"] * 1000, methods=["integrated-gradients"] * 1000, seeds=list(range(1000))
        ),
        "run.json",
    ),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_score_refuses_a_plan_that_run_did_not_write(folder: Folder, refused: Callable[..., str], name: str) -> None:
    change, word = BAD_PLANS[name]
    run = json.loads((folder.run / "run.json").read_bytes())
    change(run["runs"][0])
    (folder.run / "run.json").write_text(json.dumps(run))
    assert word in refused("score", "r", "--cache-dir", "c")


@pytest.mark.parametrize("name", [name for name in TEXTS if "checksum" not in name and "content" not in name])
def test_score_refuses_what_is_no_plan(folder: Folder, refused: Callable[..., str], name: str) -> None:
    (folder.run / "run.json").write_bytes(TEXTS[name])
    assert "expected a folder that `run` wrote" in refused("score", "r", "--cache-dir", "c")


def test_score_runs_no_plugin_because_a_file_says_so(
    folder: Folder, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = json.loads((folder.run / "run.json").read_bytes())
    for plugin in ("evil.py", str(Path("evil.py").resolve()), "evil"):
        Path("evil.py").write_text("import os\nos.mkdir('exploded')\n")
        monkeypatch.syspath_prepend(".")
        run["runs"][0]["plan"]["plugins"] = [plugin]
        (folder.run / "run.json").write_text(json.dumps(run))
        assert "give each with --plugin if you trust it" in refused("score", "r", "--cache-dir", "c")


def test_score_runs_the_plugins_that_are_named(folder: Folder, cli: Cli) -> None:
    Path("mine.py").write_text("from pathlib import Path\nPath('imported').mkdir()\n")
    run = json.loads((folder.run / "run.json").read_bytes())
    run["runs"][0]["plan"]["plugins"] = ["mine.py"]
    (folder.run / "run.json").write_text(json.dumps(run))
    assert cli("score", "r", "--cache-dir", "c", "--plugin", "mine.py")[0] == 0
    assert Path("imported").is_dir()


CONFIGS: dict[str, bytes] = {
    "no TOML": b"[run",
    "bytes that are no text": b"[run]\nout = '\xff'\n",
    "zeros": bytes(1000),
    "a pickle": PICKLE,
    "lists in lists": b"[run]\nmethods = " + nested(20_000).encode(),
    "not so many lists in lists": b"[run]\nmethods = " + nested(200).encode(),
    "tables in tables": b"[run]\nmethods = " + b"{a=" * 20_000 + b"1" + b"}" * 20_000,
    "a number of many digits": b"[toy]\ncolours = " + b"9" * 10_000 + b"\n",
    "a name of two lines": b'"evil\\n\\u001b[2J" = 1\n',
    "a table of two lines": b'["evil\\n\\u001b[2J"]\nb = 1\n',
    "an option of two lines": b'[run]\n"evil\\n\\u001b[2J" = 1\n',
    "a value of many words": b"[run]\nseeds = '" + b"evil " * 10_000 + b"'\n",
    "a task that is a path": b"[run]\ntask = '../evil'\n",
    "a task that is a path with options": b"[run]\ntask = '../evil[colours=3]'\n",
    "a method that is a path": b"[run]\nmethods = ['/evil']\n",
    "no name among commas": b"[run]\ntask = '" + b"," * 250_000 + b"'\n",
    "very many seeds": b"[run]\nseeds = 1_000_000_000_000\n",
    "more seeds than can be counted": b"[run]\nseeds = " + b"9" * 4000 + b"\n",
    "very many threads": b"[run]\nthreads = 1_000_000\n",
    "more threads than can be counted": b"[run]\nthreads = " + b"9" * 100 + b"\n",
    "very many processes": b"[run]\njobs = 1_000_000\n",
    "a time that is no number": b"[run]\ncell-timeout = nan\n",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_run_refuses_a_hostile_configuration(refused: Callable[..., str], name: str) -> None:
    Path("run.toml").write_bytes(CONFIGS[name])
    refused("run", "--config", "run.toml")


@pytest.mark.parametrize("put", [pipe, endless, Path.mkdir, loop])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("given.py", ["run", "--plugin", "given.py"]),
        ("run.json", ["score", "."]),
    ],
)
def test_what_is_no_file_is_refused_and_not_waited_for(
    refused: Callable[..., str], name: str, arguments: list[str], put: Callable[[Path], None]
) -> None:
    put(Path(name))
    assert name in refused(*arguments)


def test_a_file_without_end_is_refused_before_it_is_read(refused: Callable[..., str]) -> None:
    large(Path("run.json"))
    assert "at most" in refused("score", ".")


@pytest.mark.parametrize("source", ["../evil", ".evil", "evil/", "evil.py/", "evil\0", "evil\0.py", "..", "-"])
def test_what_is_no_plugin_is_refused(refused: Callable[..., str], source: str) -> None:
    refused("run", "--plugin", source)


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "good/../../evil", "..", ".", "", "a/b", "a\\\\b", "C:evil", "a\\u0000b", "a\\nb",
             " ", "x" * 300]
)  # fmt: skip
def test_a_study_keeps_its_files_in_the_folder_that_was_given(refused: Callable[..., str], name: str) -> None:
    Path("mine.toml").write_text(f'[good]\nmethods = "erasure"\n["{name}"]\nmethods = "erasure"\n')
    refused("study", "mine.toml", "--out", "kept/deep", "--work", "work/deep", "--jobs", "0")


def test_a_study_called_like_the_folder_above_is_refused(refused: Callable[..., str]) -> None:
    Path("...toml").write_text('[good]\nmethods = "erasure"\n')
    refused("study", "...toml", "--out", "kept", "--work", "work", "--jobs", "0")


@pytest.mark.parametrize("name", ["", "..", "../evil", "/evil", "a/b", "a\\b", "a.b", "a b", "a\n", "a\0", "all", "-"])
def test_a_name_that_is_a_path_is_not_registered(name: str) -> None:
    kind = type("Evil", (Task,), {"name": name})
    with pytest.raises(UserError, match="expected a task name of letters, digits, - and _") as error:
        Registry[Task]("task", "attribench.tasks").register(kind)
    assert_clear(str(error.value))


@pytest.mark.parametrize("name", ["3", "None", "['a']", "b'a'"])
def test_a_name_that_is_no_text_is_not_registered(name: str) -> None:
    lines = [
        "from attribench.plugins.registry import TASKS",
        "from attribench.plugins.task import Task",
        "@TASKS.register",
    ]
    Path("evil.py").write_text("\n".join([*lines, "class Evil(Task):", f"    name = {name}", ""]))
    with pytest.raises(UserError, match=r"evil\.py"):
        load_plugin("evil.py")


# Links: what is written lands in the folder that was given.


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """Return a folder outside the results, whose files must stay as they are."""
    path = tmp_path / "precious"
    path.mkdir()
    for name in ("record.json", "log.txt", "scores.csv"):
        (path / name).write_text("precious")
    before = tree(path)
    yield path
    assert tree(path) == before


def test_a_cell_that_is_a_link_is_replaced(folder: Folder, precious: Path, cli: Cli) -> None:
    shutil.rmtree(folder.cell)
    folder.cell.symlink_to(precious)
    assert cli("run", *TINY)[0] == 0
    assert not folder.cell.is_symlink()
    assert (folder.cell / "scores" / "scores.json").is_file()


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("name", ["cell", "problem"])
@pytest.mark.parametrize("arguments", [["run", *TINY], ["score", "r", "--cache-dir", "c"]])
def test_nothing_is_written_through_a_link_to_another_cell(
    folder: Folder, tmp_path: Path, cli: Cli, arguments: list[str], name: str, scored: bool
) -> None:
    path, elsewhere = {"cell": folder.cell, "problem": folder.problem}[name], tmp_path / "elsewhere"
    shutil.move(path, elsewhere)
    if not scored:
        shutil.rmtree(elsewhere / "scores")
    path.symlink_to(elsewhere)
    before = tree(elsewhere)
    code, _, err = cli(*arguments)
    assert tree(elsewhere) == before
    assert "Traceback" not in err
    if arguments[0] == "run":
        assert code == 0
        assert not path.is_symlink()
        assert (path / "scores" / "scores.json").is_file()
        assert name == "problem" or (path / "record.json").is_file()


def test_a_cell_that_is_a_link_to_nowhere_is_replaced(folder: Folder, tmp_path: Path, cli: Cli) -> None:
    shutil.rmtree(folder.cell)
    folder.cell.symlink_to(tmp_path / "nowhere")
    assert cli("run", *TINY)[0] == 0
    assert not folder.cell.is_symlink()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["cell", "problem"])
def test_scores_that_are_a_link_are_replaced(folder: Folder, precious: Path, cli: Cli, name: str) -> None:
    path = {"cell": folder.cell, "problem": folder.problem}[name] / "scores"
    shutil.rmtree(path)
    path.symlink_to(precious)
    assert cli("run", *TINY)[0] == 0
    assert not path.is_symlink()


def test_views_that_are_links_are_replaced(folder: Folder, precious: Path, cli: Cli) -> None:
    for name in ("run.json", "scores.csv", "per_graph.csv"):
        (folder.run / name).unlink()
        (folder.run / name).symlink_to(precious / "scores.csv")
    assert cli("run", *TINY)[0] == 0
    assert not any(path.is_symlink() for path in folder.run.iterdir())


def test_a_model_that_is_a_link_is_replaced(folder: Folder, precious: Path, cli: Cli) -> None:
    shutil.rmtree(folder.model)
    folder.unscored()
    folder.model.symlink_to(precious)
    assert cli("run", *TINY)[0] == 0
    assert not folder.model.is_symlink()


@pytest.mark.parametrize("put", [None, pipe, endless, Path.mkdir])
def test_a_log_is_added_to_no_other_file(folder: Folder, precious: Path, put: Callable[[Path], None] | None) -> None:
    path = folder.cell / "log.txt"
    if put is None:
        path.symlink_to(precious / "log.txt")
    else:
        put(path)
    with guarded():
        CellStore(folder.run).add_to_log(folder.cell.name, "said something\n")
    assert stat.S_ISREG(path.lstat().st_mode)
    assert path.read_text() == "said something\n"


@pytest.mark.parametrize("put", [None, pipe, endless, Path.mkdir, loop])
@pytest.mark.parametrize("lock", ["cell", "model"])
def test_a_lock_that_is_no_lock_is_one_clear_line(
    folder: Folder, precious: Path, cli: Cli, lock: str, put: Callable[[Path], None] | None
) -> None:
    path = folder.run / ".locks" / f"{folder.cell.name}.lock"
    if lock == "model":
        folder.unscored()
        path = folder.model.with_suffix(".lock")
    path.unlink()
    if put is None:
        path.symlink_to(precious / "log.txt")
    else:
        put(path)
    code, out, err = cli("run", *TINY)
    assert code == 0 or path.name in "".join((out + err).split())
    assert "Traceback" not in err


@pytest.mark.parametrize("put", [pipe, endless, loop, small])
def test_drafts_that_are_no_folders_are_not_waited_for(folder: Folder, put: Callable[[Path], None]) -> None:
    put(folder.run / ".draft-evil")
    os.utime(folder.run / ".draft-evil", (0, 0), follow_symlinks=False)
    remove_old_drafts(folder.run)


def test_drafts_that_are_links_are_no_way_out(folder: Folder, precious: Path) -> None:
    (precious / ".draft-mine").mkdir()
    (precious / ".draft-mine" / "file").write_text("precious")
    for path in (precious / ".draft-mine", precious):
        os.utime(path, (0, 0))
    (folder.run / ".draft-evil").symlink_to(precious)
    (folder.run / "evil").symlink_to(precious)
    remove_old_drafts(folder.run)
    assert (precious / ".draft-mine" / "file").read_text() == "precious"
    shutil.rmtree(precious / ".draft-mine")


def test_configurations_that_are_not_hostile_are_read(tmp_path: Path) -> None:
    text = "".join(f'[toy-{i}]\nmethods = ["a[learning_rate=0.{i}]", "b[x=0.5]"]\n' for i in range(100))
    (tmp_path / "run.toml").write_text(text)
    assert len(read_config(tmp_path / "run.toml")) == 100
