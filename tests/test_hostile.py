"""Hostile files: refused in one line, without being run, waited for, or given much memory.

Here are the functions that read arrays, JSON and weights, with every kind of hostile content; that the commands use
them is in ``test_hostile_folder.py``.
"""

import hashlib
import io
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_helpers import (
    FILES,
    KEY,
    MIB,
    PICKLE,
    SPECIAL,
    TEXTS,
    VALID,
    Bomb,
    Change,
    assert_clear,
    checked,
    guarded,
    nested,
)
from torch import Tensor, nn

from attribench.base.arrays import DamagedError, read_arrays, write_arrays
from attribench.base.files import read_json
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel
from attribench.plugins.method import Attribution
from attribench.storing.cells import CellStore
from attribench.storing.models import ModelCache
from attribench.storing.records import StoredScores

pytest_plugins = ["hostile_fixtures"]
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded and counted as on Linux"),
    pytest.mark.usefixtures("place"),
]

CPU = torch.device("cpu")
ENDED: dict[str, Any] = {"status": "ok", "reason": "", "costs": {}, "figures": {}}


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
    record = store.save(KEY, ENDED, {"test": Attribution(torch.zeros(1, 3))}, "")
    os.truncate(store.cells / KEY / "attributions.safetensors", 384 * MIB)  # more than may be taken
    with pytest.raises(DamagedError, match=r"attributions\.safetensors: the checksum does not match"), guarded():
        store.attributions(KEY, record, CPU)


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


@pytest.mark.parametrize("put", SPECIAL)
@pytest.mark.parametrize(
    "file", ["record.json", "attributions.safetensors", "scores/scores.json", "scores/per_graph.safetensors"]
)
def test_what_is_no_file_of_a_cell_counts_as_not_there_and_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, put: Callable[[Path], None]
) -> None:
    store, given = CellStore(tmp_path), {"test": Attribution(torch.ones(1, 3))}
    path, failed = store.cells / KEY / file, StoredScores([], "failed", ablations=[])
    record = store.save(KEY, ENDED, given, "")
    store.save_scores(KEY, "s", failed)
    path.unlink()
    put(path)
    with guarded():
        if path.name == "attributions.safetensors":
            with pytest.raises(DamagedError, match=path.name) as error:
                store.attributions(KEY, record, CPU)
            assert_clear(str(error.value))
        else:
            assert (store.record(KEY) if path.name == "record.json" else store.scores(KEY, "s")) is None
            (message,) = caplog.messages
            assert_clear(message)
            assert str(path) in message
        if path.parent.name != "scores":
            record = store.save(KEY, ENDED, given, "")
        store.save_scores(KEY, "s", failed)
        assert torch.equal(store.attributions(KEY, record, CPU)["test"].scores, given["test"].scores)
        assert store.scores(KEY, "s") == failed


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


@pytest.mark.parametrize("put", SPECIAL)
@pytest.mark.parametrize("file", ["model.json", "weights.safetensors"])
def test_a_model_with_what_is_no_file_is_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, put: Callable[[Path], None]
) -> None:
    cache = ModelCache(tmp_path)
    path = store_model(cache, kept(other_weights(list)))
    (path / file).unlink()
    put(path / file)
    assert_trained_again(cache, path / file, caplog)


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
