"""Records on disk: what is written is read back, nothing is half-written, and nothing pickled is loaded."""

import hashlib
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attribench.base.arrays import DamagedError, read_arrays
from attribench.base.errors import UserError
from attribench.base.files import digest, read_json, write_atomically, write_json
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel
from attribench.plugins.method import Attribution
from attribench.scoring.row import Scores
from attribench.storing.cells import CellStore
from attribench.storing.models import ModelCache
from attribench.storing.records import Record, StoredScores, read_scores

CPU = torch.device("cpu")


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)


KEY = "0123456789abcdef" * 2
BARE = Attribution(random(1, 3))
FULL = Attribution(
    random(12, 5, dtype=torch.float64) * 8 - 4,
    "relative",
    random(12, 5) > 0.5,
    tuple(random(3) + k if k % 2 else random(2, 3) + k for k in range(12)),  # more than ten: 10 sorts before 2 as text
    {"final loss": random(2), "steps/taken": torch.tensor([3, 4])},
    per_layer=False,
)

SCORES = StoredScores(
    [
        Scores(
            "m",
            "method",
            {"f1": 0.5, "threshold": None},
            {"graph": np.array([0, 2]), "f1": np.array([0.25, np.nan]), "same": np.array([True, False])},
            [{"layer": 0}, {"layer": 1}],
            [7],
            np.array([[True, False, True], [False, False, True]]),
        ),
        Scores("random(m)", "control", {}, layers=[{"layer": 0}, {"layer": 1}]),
    ],
    figures={"test": 1.0},
    ablations=[0.5, 0.25],
)


def ended(status: str = "ok", **more: Any) -> dict[str, Any]:
    return {"status": status, "reason": "", "costs": {}, "figures": {}, **more}


def assert_same(first: Attribution, second: Attribution) -> None:
    assert (first.scale, first.per_layer) == (second.scale, second.per_layer)
    assert first.diagnostics.keys() == second.diagnostics.keys()
    assert (first.hard_mask is None, first.baselines is None) == (second.hard_mask is None, second.baselines is None)
    assert len(first.baselines or ()) == len(second.baselines or ())
    tensors = [
        [a.scores, *([] if a.hard_mask is None else [a.hard_mask]), *(a.baselines or ()), *a.diagnostics.values()]
        for a in (first, second)
    ]
    for one, other in zip(*tensors, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def dumped(record: Record | None) -> dict[str, Any] | None:
    return None if record is None else record.model_dump(exclude_unset=True)


def test_a_cell_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "results")
    assert store.record(KEY) is None
    store.save(KEY, ended(costs={"seconds": 1.5}), {"validation": BARE, "test": FULL}, "said something\n")
    record = store.record(KEY)
    assert record is not None
    assert (record.status, record.costs["seconds"]) == ("ok", 1.5)
    loaded = store.attributions(KEY, record, CPU)
    assert list(loaded) == ["validation", "test"]
    assert_same(loaded["validation"], BARE)
    assert_same(loaded["test"], FULL)
    assert (store.cells / KEY / "log.txt").read_text() == "said something\n"
    assert [path.name for path in store.cells.iterdir()] == [KEY]


def test_a_cell_without_attributions_or_log_has_only_a_record(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.save(KEY, ended("skipped"), {}, "")
    assert [path.name for path in (store.cells / KEY).iterdir()] == ["record.json"]
    assert dumped(store.record(KEY)) == {**ended("skipped"), "attributions": {}, "checksum": None}


def test_saving_again_replaces_the_whole_cell(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.save(KEY, ended("ok"), {"test": FULL}, "log")
    store.save_scores(KEY, "s", SCORES)
    store.save(KEY, ended("failed"), {}, "")
    assert dumped(store.record(KEY)) == {**ended("failed"), "attributions": {}, "checksum": None}
    assert [path.name for path in (store.cells / KEY).iterdir()] == ["record.json"]
    assert [path.name for path in store.cells.iterdir()] == [KEY]


def test_scores_are_those_of_their_key(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.save(KEY, ended("ok"), {}, "")
    assert store.scores(KEY, "s") is None
    store.save_scores(KEY, "s", SCORES)
    loaded = store.scores(KEY, "s")
    assert loaded is not None
    assert (loaded.status, loaded.figures, loaded.ablations) == ("ok", {"test": 1.0}, [0.5, 0.25])
    (method, control), (saved, _) = loaded.rows, SCORES.rows
    assert (method.method, method.kind, method.figures) == ("m", "method", {"f1": 0.5, "threshold": None})
    assert (method.layers, method.unfinished) == ([{"layer": 0}, {"layer": 1}], [7])
    assert method.per_graph.keys() == saved.per_graph.keys()
    for name, column in saved.per_graph.items():
        assert method.per_graph[name].dtype == column.dtype
        np.testing.assert_array_equal(method.per_graph[name], column)
    np.testing.assert_array_equal(np.asarray(method.mask), np.asarray(saved.mask))
    assert (control.method, control.kind, control.per_graph, control.mask) == ("random(m)", "control", {}, None)
    assert store.scores(KEY, "other") is None


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("mask/2", np.ones((2, 3), bool)),
        ("mask/0", np.ones((3, 3), bool)),
        ("mask/0", np.ones(2, bool)),
        ("mask/0", np.ones((2, 3))),
        ("mask/-1", np.ones((2, 3), bool)),
        ("mask/", np.ones((2, 3), bool)),
    ],
)
def test_masks_that_cannot_be_are_refused(name: str, mask: np.ndarray) -> None:
    rows = [asdict(replace(row, per_graph={}, mask=None)) for row in SCORES.rows]
    content = {**vars(SCORES), "rows": rows}
    assert read_scores(content, {"mask/0": np.ones((2, 3), bool)}).rows[0].mask is not None
    with pytest.raises((ValueError, IndexError)):
        read_scores(content, {name: mask})


def test_equal_cells_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        CellStore(tmp_path / name).save(KEY, ended(), {"test": FULL}, "")
        CellStore(tmp_path / name).save_scores(KEY, "s", SCORES)
    for path in (tmp_path / "a").rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.parametrize("text", ["", '{"status": "o', "\xff\xfe", "[1, 2]", "null"])
def test_a_damaged_record_is_no_record(tmp_path: Path, text: str) -> None:
    store = CellStore(tmp_path)
    store.save(KEY, ended("ok"), {}, "")
    store.save_scores(KEY, "s", SCORES)
    for name in ("record.json", "scores/scores.json"):
        (store.cells / KEY / name).write_text(text, encoding="latin-1")
    assert store.record(KEY) is None
    assert store.scores(KEY, "s") is None


@pytest.mark.parametrize(
    "name", ["record.json", "attributions.safetensors", "scores/scores.json", "scores/per_graph.safetensors"]
)
def test_a_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    store = CellStore(tmp_path)
    store.save(KEY, ended(figures={"figure": 0.123456}), {"test": FULL}, "")
    store.save_scores(KEY, "s", SCORES)
    path = store.cells / KEY / name
    data = bytearray(path.read_bytes())
    at = data.index(b"0.123456") + 5 if name == "record.json" else len(data) // 2
    data[at] ^= 1
    path.write_bytes(data)
    record = store.record(KEY)
    if name == "record.json":
        assert record is None
    elif name == "attributions.safetensors":
        assert record is not None
        with pytest.raises(DamagedError, match=r"attributions\.safetensors: the checksum does not match"):
            store.attributions(KEY, record, CPU)
    else:
        assert store.scores(KEY, "s") is None


def test_a_key_is_no_path(tmp_path: Path) -> None:
    for key in ("../evil", "k", "", f"{KEY}/..", f"problem-{KEY}x", KEY.upper()):
        with pytest.raises(UserError, match="expected the key of a cell"):
            CellStore(tmp_path).record(key)


def test_read_json_of_what_is_missing_or_damaged(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"x": [1, None], "path": tmp_path})
    assert read_json(tmp_path / "deep" / "a.json") == {"x": [1, None], "path": str(tmp_path)}
    (tmp_path / "b.json").write_bytes(b"\x80{}")
    for name in ("missing.json", ".", "b.json"):
        with pytest.raises(DamagedError):
            read_json(tmp_path / name)


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failing_writer_leaves_nothing_new(tmp_path: Path, folder: bool, existing: bool) -> None:
    path = tmp_path / "out"

    def write(draft: Path, text: str = "old") -> None:
        if folder:
            draft.mkdir()
        (draft / "file" if folder else draft).write_text(text)

    def fail(draft: Path) -> None:
        write(draft, "half")
        raise RuntimeError("disk on fire")

    if existing:
        write_atomically(path, write)
    with pytest.raises(RuntimeError, match="disk on fire"):
        write_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if existing else [])
    if existing:
        assert (path / "file" if folder else path).read_text() == "old"


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"expected a writable folder with room; .*file.*--out") as error:
        CellStore(tmp_path / "file").save(KEY, ended(), {}, "")
    assert "\n" not in str(error.value)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_attributions_and_models_are_not_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, exploded = CellStore(tmp_path), tmp_path / "exploded"
    store.save(KEY, ended("ok"), {"test": BARE}, "")
    record = store.record(KEY)
    assert record is not None
    arrays: dict[str, Any] = {"test/scores": np.array([Bomb(exploded)], dtype=object)}
    with (store.cells / KEY / "attributions.safetensors").open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(DamagedError, match="checksum"):
        store.attributions(KEY, record, CPU)
    with pytest.raises(DamagedError, match="SafetensorError"):
        read_arrays(store.cells / KEY / "attributions.safetensors")
    cache = ModelCache(tmp_path)
    (cache.folder / "m").mkdir(parents=True)
    torch.save(Bomb(exploded), cache.folder / "m" / "weights.safetensors")
    checksum = hashlib.sha256((cache.folder / "m" / "weights.safetensors").read_bytes()).hexdigest()
    described = {"checksum": checksum, "figures": {}}
    write_json(cache.folder / "m" / "model.json", {"checksum": digest(described), "content": described})
    assert cache.load_or_train("m", Model(), lambda: {"trained": 1.0}) == {"trained": 1.0}
    assert "weights.safetensors is damaged" in caplog.text
    assert not exploded.exists()
    assert cache.load_or_train("m", Model(), dict) == {"trained": 1.0}  # mended


class Model(GraphModel):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        raise NotImplementedError


def test_a_model_is_trained_once(tmp_path: Path) -> None:
    cache, trained = ModelCache(tmp_path), []

    def train_into(model: Model, value: float) -> dict[str, float]:
        trained.append(value)
        nn.init.constant_(model.linear.weight, value)
        nn.init.constant_(model.norm.get_buffer("running_mean"), value)
        return {"epochs": value}

    first, again, other = Model(), Model(), Model()
    assert cache.load_or_train("a", first, lambda: train_into(first, 1)) == {"epochs": 1}
    assert cache.load_or_train("a", again, lambda: train_into(again, 2)) == {"epochs": 1}
    assert cache.load_or_train("b", other, lambda: train_into(other, 3)) == {"epochs": 3}
    assert trained == [1, 3]
    assert first.state_dict().keys() == again.state_dict().keys()
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert float(again.norm.get_buffer("running_mean")[0]) == 1
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["a", "a.lock", "b", "b.lock"]


def test_failed_training_is_not_cached(tmp_path: Path) -> None:
    def fail() -> dict[str, float]:
        raise RuntimeError("diverged")

    cache = ModelCache(tmp_path)
    with pytest.raises(RuntimeError, match="diverged"):
        cache.load_or_train("a", Model(), fail)
    assert cache.load_or_train("a", Model(), lambda: {"epochs": 1.0}) == {"epochs": 1}


def test_digest_depends_on_content_and_not_on_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    contents: list[Any] = [{"a": 1}, {"a": 2}, {"a": "1"}, {"a": 1.5}, {"b": 1}, {"a": [1]}, [1], [1, 2], [2, 1]]
    assert len({digest(content) for content in contents}) == len(contents)
