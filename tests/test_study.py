"""Studies keep their small CSV files; cards are computed from them."""

import math
import re
import shutil
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from command_helpers import Command, exit_code

from attribench.base.errors import UserError
from attribench.plugins.registry import METHODS, TASKS
from attribench.telling import cards as study
from attribench.telling.kept import KEPT

REFERENCE = Path(__file__).parent.parent / "results" / "reference" / "toy"


def test_a_study_is_several_runs_whose_small_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = "train=200,validation=30,test=20,colours=3,width=16,epochs=2"
    Path("mine.toml").write_text(
        f'[one]\ntask = "toy[{options}]"\nmethods = "integrated-gradients"\nseeds = 2\n'
        f'[two]\ntask = "toy[{options}]"\nmethods = ["erasure", "integrated-gradients[steps=3]"]\n'
        "randomised-graphs = 0\n"
    )
    assert exit_code("study", "mine.toml", "--out", "kept", "--cache-dir", "cache", "--jobs", "0") == 0
    kept = sorted(str(path.relative_to("kept")) for path in Path("kept").rglob("*") if path.is_file())
    assert kept == [f"{name}/{view}.csv" for name in ("one", "two") for view in sorted(KEPT)]
    one, two = (pd.read_csv(f"kept/{name}/scores.csv") for name in ("one", "two"))
    assert set(one["data_seed"]) == {0, 1}
    assert {"erasure", "integrated-gradients[steps=3]"} <= set(two["method"])
    assert "randomisation_correlation" not in two
    assert set(one["task"]) == {f"toy[{options}]"}


def test_the_toys_card_says_what_the_reference_files_say(command: Command) -> None:
    code, card, _ = command("list", "tasks", "toy", "--card")
    assert code == 0
    comparison = pd.read_csv(REFERENCE / "methods" / "comparison.csv")
    rows = comparison.query("task == 'toy' and kind == 'method' and cells > 0")
    assert len(rows) >= 7
    for row in rows.to_dict("records"):
        figures = [f"{100 * row[name]:.1f}" for name in ("precision_mean", "recall_mean", "f1_mean")]
        assert f"| `{row['method']}` | {' | '.join(figures)} |" in card
    assert len(re.findall(r"\*\*(holds|depends on a choice|does not reproduce)\*\*", card)) == 8
    assert "nan" not in card


def other_reference(root: Path, name: str, method: str, **figures: float) -> None:
    """Copy the reference results of a study to another root, with other figures for a method in its comparisons."""
    for source in (REFERENCE.parent / name).rglob("*.csv"):
        target = root / "results" / "reference" / name / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        frame = pd.read_csv(source)
        if source.name == "comparison.csv":
            frame.loc[frame["method"] == method, list(figures)] = list(figures.values())
        frame.to_csv(target, index=False)
    (root / "tasks").symlink_to(study.ROOT / "tasks")


def elsewhere(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Have cards made from another root."""
    here = study.render_card
    monkeypatch.setattr(study, "render_card", lambda name, _, **about: here(name, root / "tasks", **about))


def test_a_card_of_a_package_has_its_results_beside_its_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = TASKS["toy"]().card()
    shutil.copytree(REFERENCE.parent, tmp_path / "tasks" / "reference")
    for path in (study.ROOT / "tasks").glob("*.j2"):
        shutil.copy(path, tmp_path / "tasks")
    elsewhere(monkeypatch, tmp_path)
    assert TASKS["toy"]().card() == before


def test_a_card_changes_with_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_reference(tmp_path, "toy", "graphmask", f1_mean=0.123)
    before = TASKS["toy"]().card()
    elsewhere(monkeypatch, tmp_path)
    after = TASKS["toy"]().card()
    assert "(99.4): **holds**" in before
    assert "(99.4): **does not reproduce**. F1 12.3" in after


def test_a_card_without_its_results_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch, tmp_path)
    assert "are not here" in TASKS["toy"]().card()
    assert TASKS["toy-gated"]().card().startswith("The toy with a scalar sigmoid gate")


def test_a_card_of_half_a_study_says_which_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_reference(tmp_path, "toy", "graphmask", f1_mean=0.5)
    (tmp_path / "results" / "reference" / "toy" / "methods" / "comparison.csv").unlink()
    elsewhere(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"methods.comparison.csv: No such file or directory: run the whole study"):
        TASKS["toy"]().card()


def test_cards_are_of_named_tasks(command: Command) -> None:
    code, _, said = command("list", "methods", "--card")
    assert code == 2
    assert "expected --card with names of tasks" in said


@pytest.mark.parametrize("name", ["toy", "layers", "srl", "graphmask"])
def test_the_reference_results_are_those_of_the_study(name: str) -> None:
    runs = tomllib.loads((study.ROOT / "tasks" / f"{name}_study.toml").read_text())
    reference = REFERENCE.parent / name
    made = {path.name for path in reference.iterdir()}
    assert made == set(runs)
    for run_name in made:
        run_ = runs[run_name]
        table = pd.read_csv(reference / run_name / "comparison.csv").query("kind == 'method'")
        methods = list(METHODS) if run_["methods"] == "all" else run_["methods"]
        tasks = [run_["task"]] if isinstance(run_["task"], str) else run_["task"]
        assert set(table["method"]) == set([methods] if isinstance(methods, str) else methods)
        assert set(table["task"]) == set(tasks)
        assert set(table["planned"]) == {run_["seeds"]}


def test_cards_say_how_the_rules_of_graphmask_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a root without that study a card says nothing of it; a mask that keeps more than another is counted."""
    scores = pd.read_csv(REFERENCE.parent / "graphmask" / "rules" / "scores.csv").query("kind == 'method'")
    for task in ("relay", "toy[layers=2]"):
        found = scores.query("task == @task and method == 'graphmask'")
        line = f"| `{task}` | {100 * found['f1'].mean():.1f} ({100 * found['f1'].min():.1f}), "
        assert all(line in card for card in (TASKS["relay"]().card(), TASKS["toy"]().card()))
    other_reference(tmp_path, "layers", "graphmask", f1_mean=0.5)
    here = TASKS["relay"]().card()
    elsewhere(monkeypatch, tmp_path)
    assert "three rules" not in TASKS["relay"]().card()
    target = tmp_path / "results" / "reference" / "graphmask"
    shutil.copytree(REFERENCE.parent / "graphmask", target)
    frame = pd.read_csv(target / "rules" / "scores.csv")
    rows = (frame["task"] == "relay") & (frame["method"] == "graphmask")
    frame.loc[rows, "retained"] = 0.5
    frame["fit_unsettled"] = frame["fit_unsettled"].astype(float)
    frame.loc[rows, "fit_unsettled"] = 0.0
    frame.loc[frame.index[rows][1:4], "fit_unsettled"] = 1.0
    frame.to_csv(target / "rules" / "scores.csv", index=False)
    failure = "| 50.0 to 50.0 | 5 of 5 |"
    there = TASKS["relay"]().card()
    assert failure in there
    assert failure not in here
    (row,) = (line for line in there.splitlines() if line.startswith("| `relay` | ") and line.count("(") == 3)
    assert row.split(" | ")[1].endswith(", *3*")  # of so many fits the optimiser did not come to rest


def test_a_card_says_which_runs_are_of_older_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of which not all rows say which code made them."""
    other_reference(tmp_path, "layers", "graphmask", f1_mean=0.5)
    elsewhere(monkeypatch, tmp_path)
    runs = tmp_path / "results" / "reference" / "layers"

    def say(code: str, *names: str) -> str:
        for name in names:
            frame = pd.read_csv(runs / name / "comparison.csv", dtype=str).assign(code=code)
            frame.to_csv(runs / name / "comparison.csv", index=False)
        return TASKS["relay"]().card()

    assert "Of older code" not in say("abc", "methods", "depth", "choices")
    assert "**Of older code**: run `choices`;" in say("", "choices")
    assert "**Of older code**: runs `choices`, `methods`;" in say("", "methods")


LAYERED = ("two-hop", "relay", "shared-layers", "neighbour-count", "any-of", "decoy-gates")


@pytest.mark.parametrize("name", LAYERED)
def test_the_cards_of_the_layered_tasks_say_what_the_reference_files_say(name: str) -> None:
    card = TASKS[name]().card()
    folder = REFERENCE.parent / "layers"
    scores = pd.read_csv(folder / "methods" / "scores.csv").query("task == @name and status == 'ok'")
    rows = scores[scores["kind"] == "method"].groupby("method")
    for method, cells in rows:
        assert len(cells) == 5
        by_layer = [c for c in cells if str(c).startswith("f1_layer_") and cells[c].notna().any()]
        figures = [f"{100 * cells[c].mean():.1f}" for c in ("precision", "recall", "f1")]
        layers = " / ".join(f"{100 * cells[c].mean():.1f}" for c in by_layer)
        assert f"| `{method}` | {' | '.join(figures)} | {layers} |" in card
    lowest = scores[scores["method"] == "graphmask"]["f1"].min()
    assert f"lowest F1 of the five seeds: {100 * lowest:.1f}." in card
    assert "*These are used*" in card or "whose docstring has the proof" in card
    assert ("What gate values say" in card) == (name == "decoy-gates")
    assert "nan" not in card


def test_a_verdict_on_layers_changes_with_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_reference(tmp_path, "layers", "gate-values", f1_mean=0.96, f1_union_mean=0.97, auroc_mean=0.99)
    before = TASKS["decoy-gates"]().card()
    elsewhere(monkeypatch, tmp_path)
    after = TASKS["decoy-gates"]().card()
    assert "they point away from what is used" in before
    assert "they do not point away from what is used" in after
    found = "*Which methods find the messages and their layers*"
    line_before, line_after = (next(x for x in card.splitlines() if found in x) for card in (before, after))
    assert "`gate-values`" not in line_before
    assert "`gate-values`" in line_after


def test_figures_of_a_reference(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    rows = {
        "task": ["a", "a", "a[x=1]"],
        "method": ["m", "keep-all", "m"],
        "kind": ["method", "control", "method"],
        "status": ["ok"] * 3,
        "cells": [2, 2, 0],
        "f1_mean": [0.5, 0.1, None],
        "f1_layer_2_mean": [None, 0.2, None],
    }
    pd.DataFrame(rows).to_csv(tmp_path / "run" / "comparison.csv", index=False)
    cells = {"task": ["a", "a"], "method": ["m", "m"], "status": ["ok", "infeasible"], "f1": [0.5, None]}
    pd.DataFrame(cells).to_csv(tmp_path / "run" / "scores.csv", index=False)
    reference = study.Reference(tmp_path)
    assert reference.rows("run", "a") == ["m", "keep-all"]
    assert reference.methods("run", "a") == ["m"]
    assert reference.methods("run", "a[x=1]") == []
    assert reference.tasks("run", "a") == ["a", "a[x=1]"]
    assert reference.get("run", "m", "f1_mean", "a") == 0.5
    assert reference.get("run", "m", "f1_layer_2_mean", "a") is None
    assert reference.get("run", "m", "nonsense", "a") is None
    assert reference.get("run", "m", "f1_mean", "a[x=1]") is None
    assert reference.lowest("run", "m", "f1", "a") == 0  # the cell that is infeasible counts
    assert reference.each("run", "m", "f1", "a") == pytest.approx([0.5, math.nan], nan_ok=True)
    problems = {
        "task": ["a", "a", "b", "b"],
        "data_seed": [0] * 4,
        "model_seed": [0, 1] * 2,
        "test": [0.9, 0.8, 0.5, 0.6],
    }
    pd.DataFrame({**problems, "rare": [None, 0.1, None, None]}).to_csv(tmp_path / "run" / "tasks.csv", index=False)
    assert reference.figures("run", "a", "test") == [0.9, 0.8]
    assert reference.figures("run", "a", "rare") == [0.1]
    assert reference.figures("run", "a", "nonsense") == []
    assert reference.smallest_lead(("run", "a"), ("run", "b"), "test") == pytest.approx(0.2)
    with pytest.raises(UserError, match="expected the same seeds"):
        reference.smallest_lead(("run", "a"), ("run", "c"), "test")


def test_what_a_reference_says_of_layers_and_endings(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    cells = {
        "task": ["a", "a", "b", "b"],
        "method": ["m", "m", "m", "x"],
        "kind": ["method"] * 4,
        "status": ["ok", "ok", "ok", "skipped"],
        "reason": [None, None, None, "too large"],
        "share_layer_0": [0.2, 0.4, 0.5, None],
        "share_layer_1": [0.8, 0.6, None, None],
    }
    pd.DataFrame(cells).to_csv(tmp_path / "run" / "scores.csv", index=False)
    reference = study.Reference(tmp_path)
    assert reference.by_layer("run", "m", "share", "a") == pytest.approx([0.3, 0.7])
    assert reference.by_layer("run", "m", "share", "b") == [0.5]
    assert reference.by_layer("run", "x", "share", "b") == []
    assert reference.endings("run") == ["`x` on b: skipped, too large"]
    assert reference.endings("run", ["ok", "skipped"]) == []
    assert reference.methods_where("run", "b", "reason", "too") == ["x"]
    assert reference.methods_where("run", "a", "reason", "too") == []


@pytest.mark.parametrize("name", ["srl-gnn", "srl-lstm"])
def test_the_cards_of_the_role_tasks_say_what_the_reference_files_say(name: str) -> None:
    card = TASKS[name]().card()
    folder = REFERENCE.parent / "srl"
    tasks = {run: pd.read_csv(folder / run / "tasks.csv").set_index("task") for run in ("methods", "edges")}
    for run, task in (("methods", name), ("edges", f"{name}[edges=none]")):
        assert " / ".join(f"{100 * x:.1f}" for x in tasks[run].loc[task]["test"]) in card
    lead = (
        tasks["methods"].loc[name]["test"].to_numpy() - tasks["edges"].loc[f"{name}[edges=none]"]["test"].to_numpy()
    ).min()
    (line,) = [x for x in card.splitlines() if x.startswith("| the tree's lead over no edges")]
    assert f" {100 * lead:.1f} |" in line
    assert lead > 0.1
    scores = pd.read_csv(folder / "methods" / "scores.csv").query(
        "task == @name and status == 'ok' and kind == 'method'"
    )
    section = card[card.index(f"**{name}**") :]
    for method, cells in scores.groupby("method"):
        assert len(cells) == 3
        figures = [cells[c].mean() for c in ("retained", "metric_fall", "metric_fall_thinned_to_0.75")]
        assert f"| `{method}` | {' | '.join(f'{100 * x:z.1f}' for x in figures)} |" in section
    fits = pd.read_csv(folder / "fits" / "scores.csv").query("task == @name and method == 'graphmask'")
    assert (len(fits), fits["fit_seed"].nunique(), fits["model_seed"].nunique()) == (5, 5, 1)
    low, high = 100 * fits["retained"].min(), 100 * fits["retained"].max()
    assert f"in 5 of 5 fits on the first model {low:.1f} to {high:.1f} at" in card
    assert "nan" not in card
