"""The tables of a results folder speak of every current cell in it, whichever command made it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command_helpers import Command

from attribench.base.closure import code_digest

SMALL = [
    *("--set", "toy.train=100", "--set", "toy.validation=12", "--set", "toy.test=10", "--set", "toy.colours=3"),
    *("--set", "toy.width=4", "--set", "toy.hidden=8", "--set", "toy.epochs=2"),
]
GATED = [text.replace("toy.", "toy-gated.") for text in SMALL]
PLUGIN = '''
"""A method of a stranger."""
import torch
from attribench import METHODS, Attribution, Method

@METHODS.register
class Mine(Method):
    """Mine."""
    name = "NAME"
    def attribute(self, graphs):
        return Attribution(torch.full((self.subject.num_layers, graphs.num_edges), 0.5), "relative")
'''
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        options = ["--jobs", "0", "--randomised-graphs", "0", "--cache-dir", "c"]
        code, _, said = command("run", *arguments, *(options if "--jobs" not in arguments else []))
        return code, said

    return call


def methods(folder: str, task: str = "toy") -> set[str]:
    table = pd.read_csv(f"{folder}/comparison.csv").query("kind == 'method' and task == @task")
    return set(table["method"])


def test_tables_do_not_depend_on_the_order_of_commands(run: Run) -> None:
    both = ["--task", "toy,toy-gated", *SMALL, *GATED]
    assert run(*both, "--methods", "erasure-greedy,integrated-gradients", "--out", "a")[0] == 0
    assert run("--task", "toy", *SMALL, "--methods", "erasure-greedy", "--out", "a")[0] == 0
    assert run("--task", "toy-gated", *GATED, "--methods", "gate-values", "--out", "a")[0] == 0
    assert methods("a") == {"erasure-greedy", "integrated-gradients"}
    assert methods("a", "toy-gated") == {"erasure-greedy", "integrated-gradients", "gate-values"}
    assert run("--task", "toy-gated", *GATED, "--methods", "gate-values", "--out", "b")[0] == 0
    assert run("--task", "toy", *SMALL, "--methods", "erasure-greedy", "--out", "b")[0] == 0
    assert run(*both, "--methods", "integrated-gradients,erasure-greedy", "--out", "b")[0] == 0
    for name in ("comparison", "scores", "layers", "per_graph", "tasks"):
        assert Path(f"a/{name}.csv").read_bytes() == Path(f"b/{name}.csv").read_bytes()
    runs = json.loads(Path("a/run.json").read_text())
    assert runs["schema"] == 2
    assert len(runs["runs"]) == 3


def test_the_same_command_again_is_one_run(run: Run) -> None:
    for _ in range(2):
        assert run("--task", "toy", *SMALL, "--methods", "erasure-greedy", "--out", "a")[0] == 0
    assert len(json.loads(Path("a/run.json").read_text())["runs"]) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "toy.epochs=3"], "toy.epochs=2, and now toy.epochs=3"),
        (["--max-edges", "77"], "max_edges=100000, and now max_edges=77"),
    ],
)
def test_another_configuration_of_a_cell_is_refused(run: Run, more: list[str], words: str) -> None:
    start = ["--task", "toy", *SMALL, "--methods", "erasure-greedy", "--out", "a"]
    assert run(*start)[0] == 0
    before = {path: path.read_bytes() for path in Path("a").rglob("*.*") if path.is_file()}
    code, err = run(*start, *more)
    assert (code, err.count("\n")) == (2, 1)
    assert words in err
    assert "choose another --out" in err
    assert before == {path: path.read_bytes() for path in Path("a").rglob("*.*") if path.is_file()}
    for other in (["--methods", "integrated-gradients"], ["--first-seed", "1"]):  # beside it in one table
        code, err = run(*start, *other, *more)
        assert (code, err.count("\n")) == (2, 1)
        assert words in err
    assert run("--task", "toy", *SMALL, *more, "--methods", "erasure-greedy", "--out", "b")[0] == 0


SEEDS = [
    (["--seeds", "2"], ["--vary", "fit", "--seeds", "2"]),
    (["--vary", "fit", "--seeds", "2"], ["--vary", "fit", "--seeds", "2", "--first-seed", "1"]),
    (["--vary", "model,fit", "--seeds", "2"], ["--first-seed", "1"]),
]


@pytest.mark.parametrize(("first", "second"), SEEDS)
def test_seeds_that_vary_otherwise_are_not_pooled(run: Run, first: list[str], second: list[str]) -> None:
    start = ["--task", "toy", *SMALL, "--out", "a"]
    assert run(*start, "--methods", "erasure-greedy", *first)[0] == 0
    before = Path("a/comparison.csv").read_bytes()
    for dry in ([], ["--dry-run"]):
        code, err = run(*start, "--methods", "integrated-gradients", *second, *dry)
        assert (code, err.count("\n")) == (2, 1)
        assert "expected the seeds of toy in a to vary alike" in err
        assert f"now --vary {'fit --first' if 'fit' in second else 'data,model,fit --first-seed 1'}" in err
        assert "choose another --out" in err
    assert Path("a/comparison.csv").read_bytes() == before


def test_seeds_that_vary_alike_are_pooled_and_tables_say_which(run: Run) -> None:
    start = ["--task", "toy", *SMALL, "--methods", "erasure-greedy"]
    for out, vary, varied in (("a", [], "data model fit"), ("b", ["--vary", "fit"], "fit")):
        for seeds in ("1", "2"):
            assert run(*start, *vary, "--seeds", seeds, "--out", out)[0] == 0
        table = pd.read_csv(f"{out}/comparison.csv")
        assert set(table["varied"]) == {varied}
        assert set(table["cells"]) == {2}
    assert run(*start, "--first-seed", "2", "--out", "a")[0] == 0  # of a run of one seed, whatever --vary says
    assert set(pd.read_csv("a/comparison.csv")["cells"]) == {3}


def test_runs_that_did_not_know_each_others_plugins_are_not_pooled_by_score(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attribench import METHODS, UserError, score

    list(METHODS)
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    Path("mine.py").write_text(PLUGIN.replace("NAME", "mine"))
    start = ["--task", "toy", *SMALL, "--out", "a", "--seeds", "2"]
    assert run(*start, "--methods", "mine", "--plugin", "mine.py")[0] == 0
    METHODS._entries.pop("mine")
    assert run(*start, "--methods", "erasure-greedy", "--vary", "fit")[0] == 0
    with pytest.raises(UserError, match="expected the seeds of toy in a to vary alike"):
        score("a", plugins=["mine.py"], cache_dir="c", progress=False)


def test_cells_of_a_plugin_that_is_not_named_or_was_edited_are_left_out_and_counted(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attribench import METHODS

    list(METHODS)
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    Path("mine.py").write_text(PLUGIN.replace("NAME", "mine"))
    start = ["--task", "toy", *SMALL, "--out", "a"]
    assert run(*start, "--methods", "mine", "--plugin", "mine.py")[0] == 0
    assert "left out" not in run(*start, "--methods", "erasure-greedy", "--plugin", "mine.py")[1]
    assert methods("a") == {"mine", "erasure-greedy"}
    Path("mine.py").write_text(PLUGIN.replace("NAME", "mine").replace("0.5", "0.25"))
    code_digest.cache_clear()
    from attribench.base import closure

    closure._read.cache_clear()
    code, err = run(*start, "--methods", "erasure-greedy", "--plugin", "mine.py")
    assert code == 0
    assert "left out of a: 1 cell which today's code would make anew: run their command again" in err
    assert methods("a") == {"erasure-greedy"}
    METHODS._entries.pop("mine")
    code, err = run(*start, "--methods", "erasure-greedy")
    assert "left out of a: 1 cell whose --plugin or --data-dir this command does not name, or whose device" in err


def test_cells_whose_scores_are_of_other_code_are_left_out_and_not_called_failed(run: Run) -> None:
    start = ["--task", "toy", *SMALL, "--out", "a"]
    assert run(*start, "--methods", "erasure-greedy")[0] == 0
    for scores in Path("a/cells").glob("[!p]*/scores"):
        shutil.rmtree(scores)
    code, err = run(*start, "--methods", "integrated-gradients")
    assert code == 0
    assert "left out of a: 1 cell which today's code would make anew: run their command again" in err
    assert methods("a") == {"integrated-gradients"}
    assert run(*start, "--methods", "erasure-greedy")[0] == 0
    assert methods("a") == {"integrated-gradients", "erasure-greedy"}


def test_a_folder_of_an_earlier_version_is_refused_in_a_line(run: Run) -> None:
    Path("a").mkdir()
    Path("a/run.json").write_text(json.dumps({"plan": {}, "cells": []}))
    code, err = run("--task", "toy", *SMALL, "--methods", "erasure-greedy", "--out", "a")
    assert (code, err.count("\n")) == (2, 1)
    assert "expected a folder of schema 2; an earlier version wrote a/run.json: choose another --out" in err
