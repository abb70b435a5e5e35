"""Hostile results folders: what is damaged is named in a warning and made again; links lead nowhere.

Every kind of damage is given to the function that reads it, and of every stored file one kind to the command.
"""

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_helpers import Command
from hostile_helpers import (
    FILES,
    TINY,
    Change,
    Folder,
    assert_clear,
    each,
    endless,
    guarded,
    large,
    loop,
    made,
    pipe,
    put_in,
    small,
    tree,
    with_value,
)

from attribench.base.arrays import DamagedError
from attribench.base.files import remove_old_drafts
from attribench.plugins.registry import METHODS
from attribench.plugins.task import Problem
from attribench.running.folder import read_plans
from attribench.running.foreign import check
from attribench.running.keys import score_key
from attribench.running.runner import Runner
from attribench.storing.cells import CellStore
from attribench.storing.models import ModelCache
from attribench.storing.runs import NAME

pytest_plugins = ["hostile_fixtures"]
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded and counted as on Linux"),
    pytest.mark.usefixtures("place"),
]

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


WRONG_PROBLEMS: dict[str, Change] = {
    "a row without layers": put_in("rows.0.layers", []),
    "a figure that is text": put_in("figures.test", "much"),
    "rows that are none": put_in("rows", [3]),
    "no ablations": put_in("ablations", []),
    "an ablation that is text": put_in("ablations", ["much"]),
    "an ablation that is a list": put_in("ablations", [[1]]),
    "ablations of more layers": put_in("ablations", [1, 2, 3]),
}


@pytest.fixture(scope="module")
def problem(finished: Path) -> Problem:
    """Return the problem of the tiny run, with the model that it has trained."""
    ((plan, _),) = read_plans(finished / "r" / NAME, [], None)
    runner = Runner(plan, CellStore(finished / "r"), ModelCache(finished / "c"))
    return runner.problem(*plan.problems())


def assert_not_those_of(problem: Problem, folder: Folder) -> None:
    """Assert that the tiny run's attributions, or what is said of them, are refused in one clear line."""
    store, key = CellStore(folder.run), folder.cell.name
    record = store.record(key)
    if record is not None:
        with pytest.raises(DamagedError) as error, guarded():
            check(store.attributions(key, record, torch.device("cpu")), problem)
        assert_clear(str(error.value))


def test_what_the_run_wrote_is_read(folder: Folder, problem: Problem, caplog: pytest.LogCaptureFixture) -> None:
    store, key = CellStore(folder.run), folder.cell.name
    record = store.record(key)
    assert record is not None
    check(store.attributions(key, record, torch.device("cpu")), problem)
    for path in (folder.cell, folder.problem):
        assert store.scores(path.name, score_key(path.name)) is not None
    assert not caplog.records


@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_attributions_that_cannot_be_these_are_refused(folder: Folder, problem: Problem, name: str) -> None:
    folder.change_arrays("attributions", WRONG_ARRAYS[name])
    assert CellStore(folder.run).record(folder.cell.name) is not None
    assert_not_those_of(problem, folder)


@pytest.mark.parametrize("name", WRONG_RECORDS)
def test_a_record_that_cannot_be_one_counts_as_not_there(
    folder: Folder, problem: Problem, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    folder.change_arrays("attributions", each(test__scores=lambda x: x * 100 + 2))  # no gates
    folder.change("record", WRONG_RECORDS[name])
    assert_not_those_of(problem, folder)
    for message in caplog.messages:
        assert_clear(message)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        *(pytest.param("scores", change, id=name) for name, change in WRONG_SCORES.items()),
        *(pytest.param("per graph", change, id=name) for name, change in COLUMNS.items()),
        *(pytest.param("problem", change, id=f"of a problem: {name}") for name, change in WRONG_PROBLEMS.items()),
    ],
)
def test_scores_that_cannot_be_these_count_as_not_there(
    folder: Folder, caplog: pytest.LogCaptureFixture, file: str, change: Change
) -> None:
    (folder.change_arrays if "per graph" in file else folder.change)(file, change)
    assert_no_scores(folder.file(file).parent, caplog)


@pytest.mark.parametrize(("file", "arrays"), [("scores", "per graph"), ("problem", "problem per graph")])
def test_scores_without_any_row_count_as_not_there(
    folder: Folder, caplog: pytest.LogCaptureFixture, file: str, arrays: str
) -> None:
    folder.change_arrays(arrays, lambda columns: columns.clear())
    folder.change(file, put_in("rows", []))
    assert_no_scores(folder.file(file).parent, caplog)


def assert_no_scores(scores: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that a cell's scores are not read, and that one clear line says where they are."""
    key = scores.parent.name
    with guarded():
        assert CellStore(scores.parents[2]).scores(key, score_key(key)) is None
    (message,) = caplog.messages
    assert_clear(message)
    assert str(scores) in message


# The command: one kind of damage for each stored file.


@pytest.mark.parametrize(
    ("name", "put"),
    [
        ("record", pipe),
        ("attributions", endless),
        ("scores", Path.mkdir),
        ("per graph", loop),
        ("problem", large),
        ("model", small),
        ("weights", pipe),
    ],
)
def test_what_is_no_file_is_replaced(
    folder: Folder, made_again: Callable[[Path], None], name: str, put: Callable[[Path], None]
) -> None:
    if name in ("attributions", "model", "weights"):
        folder.unscored()
    path = folder.file(name)
    path.unlink()
    put(path)
    made_again(path.parent if name == "per graph" else path)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("record", WRONG_RECORDS["costs in a list"]),
        ("attributions", WRONG_ARRAYS["one edge fewer"]),
        ("scores", WRONG_SCORES["a figure that is text"]),
        ("per graph", COLUMNS["a path"]),
        ("problem", WRONG_PROBLEMS["rows that are none"]),
    ],
)
def test_what_cannot_be_what_the_run_wrote_is_made_again(
    folder: Folder, made_again: Callable[[Path], None], file: str, change: Change
) -> None:
    (folder.change_arrays if file in ("attributions", "per graph") else folder.change)(file, change)
    if file in ("record", "attributions"):
        folder.unscored()
    made_again(folder.cell if file in ("record", "attributions") else folder.file(file).parent)


def test_more_layers_than_the_problem_has_end_no_report(folder: Folder, cli: Command) -> None:
    folder.change("scores", lambda scores: scores["rows"][0]["layers"].append({"layer": 1}))
    assert cli("run", *TINY)[0] in (0, 1)


def test_score_names_what_is_damaged_and_runs_no_method(
    folder: Folder, cli: Command, monkeypatch: pytest.MonkeyPatch
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
def test_what_a_record_says_cannot_drive_the_terminal(folder: Folder, cli: Command, field: str, text: str) -> None:
    folder.change("record", lambda record: record.update({"status": "failed", field: text}))
    code, out, err = cli("score", "r", "--cache-dir", "c")
    assert code in (1, 2)
    assert "\x1b" not in out + err
    assert "Traceback" not in err


# Links: what is written lands in the folder that was given.


def test_a_cell_that_is_a_link_is_replaced(folder: Folder, precious: Path, cli: Command) -> None:
    shutil.rmtree(folder.cell)
    folder.cell.symlink_to(precious)
    assert cli("run", *TINY)[0] == 0
    assert not folder.cell.is_symlink()
    assert (folder.cell / "scores" / "scores.json").is_file()


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("name", ["cell", "problem"])
@pytest.mark.parametrize("arguments", [["run", *TINY], ["score", "r", "--cache-dir", "c"]])
def test_nothing_is_written_through_a_link_to_another_cell(
    folder: Folder, tmp_path: Path, cli: Command, arguments: list[str], name: str, scored: bool
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


def test_a_cell_that_is_a_link_to_nowhere_is_replaced(folder: Folder, tmp_path: Path, cli: Command) -> None:
    shutil.rmtree(folder.cell)
    folder.cell.symlink_to(tmp_path / "nowhere")
    assert cli("run", *TINY)[0] == 0
    assert not folder.cell.is_symlink()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["cell", "problem"])
def test_scores_that_are_a_link_are_replaced(folder: Folder, precious: Path, cli: Command, name: str) -> None:
    path = {"cell": folder.cell, "problem": folder.problem}[name] / "scores"
    shutil.rmtree(path)
    path.symlink_to(precious)
    assert cli("run", *TINY)[0] == 0
    assert not path.is_symlink()


def test_views_that_are_links_are_replaced(folder: Folder, precious: Path, cli: Command) -> None:
    for name in ("run.json", "scores.csv", "per_graph.csv"):
        (folder.run / name).unlink()
        (folder.run / name).symlink_to(precious / "scores.csv")
    assert cli("run", *TINY)[0] == 0
    assert not any(path.is_symlink() for path in folder.run.iterdir())


def test_a_model_that_is_a_link_is_replaced(folder: Folder, precious: Path, cli: Command) -> None:
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
    folder: Folder, precious: Path, cli: Command, lock: str, put: Callable[[Path], None] | None
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
