"""Records on disk: what is written is read back, nothing is half-written, and nothing pickled is loaded."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attribench.errors import UserError
from attribench.graphs import GraphBatch
from attribench.method import Attribution
from attribench.model import GraphModel
from attribench.store import CellStore, ModelCache, digest, read_json, write_atomically, write_json

CPU = torch.device("cpu")


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)


BARE = Attribution(random(1, 3))
FULL = Attribution(
    random(12, 5, dtype=torch.float64) * 8 - 4,
    "relative",
    random(12, 5) > 0.5,
    tuple(random(3) + k if k % 2 else random(2, 3) + k for k in range(12)),  # more than ten: 10 sorts before 2 as text
    {"final loss": random(2), "steps/taken": torch.tensor([3, 4])},
    per_layer=False,
)


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


def test_a_cell_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "results")
    assert store.record("k") is None
    store.save("k", {"status": "ok", "seconds": 1.5}, {"validation": BARE, "test": FULL}, "said something\n")
    record = store.record("k")
    assert record is not None
    assert (record["status"], record["seconds"]) == ("ok", 1.5)
    loaded = store.attributions("k", record, CPU)
    assert list(loaded) == ["validation", "test"]
    assert_same(loaded["validation"], BARE)
    assert_same(loaded["test"], FULL)
    assert (store.cells / "k" / "log.txt").read_text() == "said something\n"
    assert [path.name for path in store.cells.iterdir()] == ["k"]


def test_a_cell_without_attributions_or_log_has_only_a_record(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.save("k", {"status": "skipped"}, {}, "")
    assert [path.name for path in (store.cells / "k").iterdir()] == ["record.json"]
    assert store.record("k") == {"status": "skipped", "attributions": {}}


def test_saving_again_replaces_the_whole_cell(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.save("k", {"status": "ok"}, {"test": FULL}, "log")
    store.save_scores("k", "s", [{"f1": 1.0}])
    store.save("k", {"status": "failed"}, {}, "")
    assert store.record("k") == {"status": "failed", "attributions": {}}
    assert [path.name for path in (store.cells / "k").iterdir()] == ["record.json"]
    assert [path.name for path in store.cells.iterdir()] == ["k"]


def test_scores_are_those_of_their_key(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.save("k", {}, {}, "")
    assert store.scores("k", "s") is None
    store.save_scores("k", "s", [{"f1": 0.5, "threshold": None}])
    assert store.scores("k", "s") == [{"f1": 0.5, "threshold": None}]
    assert store.scores("k", "other") is None


@pytest.mark.parametrize("text", ["", '{"status": "o', "\xff\xfe", "[1, 2]", "null"])
def test_a_damaged_record_is_no_record(tmp_path: Path, text: str) -> None:
    store = CellStore(tmp_path)
    store.save("k", {"status": "ok"}, {}, "")
    for name in ("record.json", "scores.json"):
        (store.cells / "k" / name).write_text(text, encoding="latin-1")
    assert store.record("k") is None
    assert store.scores("k", "s") is None


def test_read_json_of_what_is_missing_or_damaged(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"x": [1, None], "path": tmp_path})
    assert read_json(tmp_path / "deep" / "a.json") == {"x": [1, None], "path": str(tmp_path)}
    assert read_json(tmp_path / "missing.json") is None
    assert read_json(tmp_path) is None
    (tmp_path / "b.json").write_bytes(b"\x80{}")
    assert read_json(tmp_path / "b.json") is None


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
    with pytest.raises(UserError, match=r"expected a writable folder; .*file.*: choose another with --out") as error:
        CellStore(tmp_path / "file").save("k", {}, {}, "")
    assert "\n" not in str(error.value)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_attributions_and_models_are_not_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, exploded = CellStore(tmp_path), tmp_path / "exploded"
    store.save("k", {}, {"test": BARE}, "")
    record = store.record("k")
    assert record is not None
    arrays: dict[str, Any] = {"test/scores": np.array([Bomb(exploded)], dtype=object)}
    np.savez(store.cells / "k" / "attributions.npz", **arrays)
    with pytest.raises(ValueError, match="allow_pickle"):
        store.attributions("k", record, CPU)
    cache = ModelCache(tmp_path)
    cache.folder.mkdir(exist_ok=True)
    torch.save({"state": Bomb(exploded), "figures": {}}, cache.folder / "m.pt")
    assert cache.load_or_train("m", Model(), lambda: {"trained": 1.0}) == {"trained": 1.0}
    assert "m.pt is damaged (UnpicklingError); training it again" in caplog.text
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
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["a.pt", "b.pt"]


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
