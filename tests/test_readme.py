"""The README's examples work as printed."""

import importlib
import re
import sys
from math import exp, log
from pathlib import Path

import pandas as pd
import pytest
import torch

from attribench.checking.methods import random_graphs
from attribench.cli import main
from attribench.model.output import Output
from attribench.plugins.registry import METHODS, TASKS
from attribench.scoring import scorers

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"save it as `(\w+\.py)`:\n\n```python\n(.*?)```", README, re.DOTALL | re.IGNORECASE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the examples as files, the registries to be as before afterwards."""
    for name, code in EXAMPLES:
        (tmp_path / name).write_text(code)
    for registry in (METHODS, TASKS):
        list(registry)  # discover first
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(scorers, "_SCORERS", dict(scorers._SCORERS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["attribench", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        main()
    return int(exit_info.value.code or 0)


def test_there_are_examples_of_the_promised_length() -> None:
    lengths = {name: len([line for line in code.splitlines() if line.strip()]) for name, code in EXAMPLES}
    assert lengths.keys() == {"saliency.py", "red_edges.py", "counts.py", "missed.py"}
    assert lengths["saliency.py"] <= 20
    assert lengths["red_edges.py"] <= 45
    assert lengths["counts.py"] <= 20


def test_the_method(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "check", "saliency", "--plugin", "saliency.py") == 0
    assert "FAILED" not in capsys.readouterr().out
    small = ["--set", "toy.train=400", "--set", "toy.validation=60", "--set", "toy.test=60", "--set", "toy.colours=3"]
    names = ["--methods", "saliency,integrated-gradients", "--task", "toy"]
    assert run(monkeypatch, "run", "--plugin", "saliency.py", *names, *small, "--cache-dir", "cache") == 0
    scores = pd.read_csv("results/toy/scores.csv").query("kind == 'method'")
    assert set(scores["method"]) == {"saliency", "integrated-gradients"}
    assert (scores["auroc"] > 0.6).all()


def test_the_task(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "check", "red-edges", "--plugin", "red_edges.py") == 0
    assert "FAILED" not in capsys.readouterr().out
    arguments = ["--plugin", "red_edges.py", "--task", "red-edges", "--methods", "all", "--cache-dir", "cache"]
    arguments += ["--randomised-graphs", "0"]  # which would train GraphMask twice
    for name in ("gnnexplainer", "graphmask-nonamortized", "information-bottleneck"):
        arguments += ["--set", f"{name}.steps=50"]
    assert run(monkeypatch, "run", *arguments) == 0
    scores = pd.read_csv("results/red-edges/scores.csv").set_index("method")
    assert float(scores["f1"]["graphmask"]) > 0.95
    assert float(scores["unchanged_zero"]["gold"]) > 0.98  # the gold is what the model uses


def test_the_figure(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "toy.train=400", "--set", "toy.validation=60", "--set", "toy.test=60", "--set", "toy.colours=3"]
    names = ["--methods", "integrated-gradients", "--task", "toy"]
    assert run(monkeypatch, "run", "--plugin", "missed.py", *names, *small, "--cache-dir", "cache") == 0
    assert "missed: gold messages that are not retained" in " ".join(capsys.readouterr().out.split())
    scores = pd.read_csv("results/toy/scores.csv").set_index("method")
    assert list(scores["missed"]) == pytest.approx(list(1 - scores["recall"]), abs=1e-5)
    assert "missed_mean" in pd.read_csv("results/toy/comparison.csv")
    glossary = pd.read_csv("results/toy/figures.csv").set_index("figure")
    assert glossary.loc["missed", "meaning"] == "gold messages that are not retained"


def test_the_output(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    output: Output = importlib.import_module("counts").Counts()
    graphs = random_graphs(2, "counts")
    two, one = torch.tensor([[2.0], [2.0]]).log(), torch.zeros(2, 1)
    assert output.check_logits(two, graphs) is None
    assert output.check_labels(torch.tensor([1, 4]), two, graphs) is None
    kl = 2 * log(2) - 1  # of rates 2 and 1
    assert output.divergence(two, one, graphs).tolist() == pytest.approx([kl, kl])
    explained = output.explained(two, graphs)
    assert output.loss(explained, two, graphs).tolist() == pytest.approx([2 - log(2)] * 2)  # -log(4 / 2 e^-2)
    assert output.target(explained, one, graphs, "logit").tolist() == pytest.approx([-1 - log(2)] * 2)
    assert output.target(explained, one, graphs, "probability").tolist() == pytest.approx([exp(-1) / 2] * 2)
    assert output.unchanged(two, two + torch.tensor([[0.1], [1.0]]), graphs).tolist() == [True, False]
    assert output.metric(two, torch.tensor([1, 4]), graphs) == 0.5
    assert output.classes(two, graphs) is None


def test_the_table_of_the_layered_tasks_is_that_of_their_cards() -> None:
    card = TASKS["relay"]().card()
    table = card[card.index("| F1, and (F1 over edges") :].strip()
    assert table in README


def test_the_conclusions_are_those_of_the_card() -> None:
    card = TASKS["toy"]().card()
    section = card[card.index("## The paper's conclusions") : card.index("## What the conclusions depend on")]
    items = [line for line in section.splitlines()[1:] if line.strip()]
    assert len(items) == 8
    assert "\n".join(items) in README


def test_what_is_beside_the_paper_is_that_of_the_card() -> None:
    card = TASKS["srl-gnn"]().card()
    start = card.index("F1 (the paper: on CoNLL-2009")
    assert card[start : card.index("### All methods")].strip() in README
