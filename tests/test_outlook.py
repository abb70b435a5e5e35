"""What a run would do, and what no plan uses: said without doing anything, removed when asked for."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from command_helpers import Command, exit_code

from attribench.api import dry_run, unused
from attribench.base.errors import UserError

SIZES = ("train=100", "epochs=1", "test=20", "validation=20")
TOY = ["--task", "toy", *(text for size in SIZES for text in ("--set", f"toy.{size}"))]
RUN = ["run", *TOY, "--methods", "integrated-gradients,gate-values", "--out", "r", "--cache-dir", "c", "--jobs", "0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a place with a results folder ``r`` and a cache ``c``."""
    place = tmp_path_factory.mktemp("outlook")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert exit_code(*RUN) == 0
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "p")
    monkeypatch.chdir(tmp_path / "p")
    return tmp_path / "p"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_says_what_is_there_and_what_would_run_and_why(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(place)
    code, out, _ = command(*RUN, "--dry-run")
    assert code == 0
    assert out.splitlines() == [
        "toy · integrated-gradients · seed 0: is there",
        "toy · gate-values · seed 0: is there",
        "r: 2 of 2 cells are there; 0 would run",
    ]
    code, out, _ = command(*RUN, "--dry-run", "--seeds", "2", "--overwrite", "always")
    assert "toy · integrated-gradients · seed 1: would run: it was never run here" in out
    assert "toy · integrated-gradients · seed 0: would run: it ended as ok" in out
    assert re.search(r"0 of 4 cells are there; 4 would run, about \d+\.\d s in all and \d+\.\d\d MB by what", out)
    assert "of 2 it is not known how long they take" in out  # gate values were skipped, which says nothing of seconds
    with monkeypatch.context() as patch:
        patch.setattr("attribench.running.keys.library_versions", lambda: {"torch": "2.99"})
        code, out, _ = command(*RUN, "--dry-run")
    assert "seed 0: would run: of what decides it, this changed: versions" in out
    code, out, err = command(*RUN, "--dry-run", "--threads", "2")
    assert (code, out) == (2, "")
    assert "expected one configuration of toy in r; it was run there with threads=1, and now threads=2" in err
    _, out, _ = command("run", "--dry-run", "--task", "toy", "--out", "nowhere", "--methods", "gate-values")
    assert out.splitlines() == [
        "toy · gate-values · seed 0: would run: it was never run here",
        "nowhere: 0 of 1 cells are there; 1 would run, it is not known how long",
    ]
    assert not Path("nowhere").exists()
    place.with_name("note").write_text("a file")
    for out_ in ("../note", "../note/deeper"):
        code, out, err = command("run", "--dry-run", "--task", "toy", "--out", out_, "--methods", "gate-values")
        assert (code, out) == (2, "")
        assert err.startswith("error: expected a folder; ")
        assert err.endswith("note is a file: choose another with --out\n")
    assert tree(place) == before


def test_what_has_to_be_scored_again_is_said(place: Path) -> None:
    for path in (place / "r").glob("cells/*/scores"):
        shutil.rmtree(path)
    _, found = dry_run(task="toy", methods="integrated-gradients", out="r", cache_dir="c", settings={
        "toy": {"train": 100, "epochs": 1, "test": 20, "validation": 20}
    })  # fmt: skip
    assert [one.why for one in found] == ["its scores are not there, or of other code"]


def test_what_no_plan_uses_is_removed_when_that_is_confirmed(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("clean", "r", "--models", "--cache-dir", "c", "--yes")[2] == "nothing is unused\n"
    other, model = place / "r" / "cells" / ("0" * 32), place / "c" / "models" / ("1" * 32)
    for folder in (other, model, place / "r" / "cells" / "mine"):
        folder.mkdir()
        (folder / "file").write_bytes(bytes(1_000_000))
    before = tree(place)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, _ = command("clean", "r")
    assert (code, out.strip()) == (130, f"r/cells/{'0' * 32}  1.00 MB")
    assert tree(place) == before
    code, out, err = command("clean", "r", "--models", "--cache-dir", "c", "--yes")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert err == "removed 2 entries\n"
    assert not other.exists()
    assert not model.exists()
    assert set(tree(place)) == {name for name in before if "0" * 32 not in name and "1" * 32 not in name}


def test_runs_of_plugins_that_are_not_named_are_kept(place: Path) -> None:
    content = json.loads((place / "r" / "run.json").read_text())
    content["runs"][0]["plan"]["tasks"] = ["unknown"]
    (place / "r" / "run.json").write_text(json.dumps(content))
    assert unused(["r"]) == []
    with pytest.raises(UserError, match=r"expected all plugins of the runs in r by name.*--plugin"):
        unused(["r"], models=True, cache_dir="c")
    with pytest.raises(UserError, match="expected a folder that `run` wrote"):
        unused(["nowhere"])


def test_the_version_and_everything_there_is_are_told(command: Command) -> None:
    assert command("--version")[1] == "attribench 0.1.0\n"
    listed = command("list")[1].splitlines()
    assert listed[0] == "methods:"
    assert "tasks:" in listed
    assert any(line.startswith("graphmask ") for line in listed)


def test_where_there_is_no_terminal_every_cell_that_runs_is_a_line(place: Path, command: Command) -> None:
    shutil.rmtree(place / "r")
    _, _, err = command(*RUN)
    assert err.splitlines() == [
        "[1/2] toy · integrated-gradients · seed 0: ok",
        "[2/2] toy · gate-values · seed 0: skipped",
        "wrote r",
    ]
    assert command(*RUN)[2] == "wrote r\n"
