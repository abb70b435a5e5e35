"""Every example of the pages works as printed: files are used, Python is run, and commands are those of the program."""

import importlib
import re
import shlex
import tomllib
from math import exp, log
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import typer
from command_helpers import exit_code
from docs_helpers import PAGES, ROOT, SAVED, blocks, commands

from attribench.base.names import base_name
from attribench.checking.methods import random_graphs
from attribench.cli import app
from attribench.model import driver_list
from attribench.model.output import Output
from attribench.plugins.configs import parse_overrides, read_config
from attribench.plugins.registry import METHODS, TASKS, load_plugin
from attribench.running.options import run_options
from attribench.running.plan import Plan
from attribench.running.planning import make_plan, read_study
from attribench.scoring import scorers

SMALL = [f"toy.{option}" for option in ("train=400", "validation=60", "test=60", "colours=3")]
SMALL = [text for setting in SMALL for text in ("--set", setting)]
COMMANDS = sorted({line for _, line in commands()})
TOX = (ROOT / "tox.ini").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the examples as files, what they register to be as before afterwards."""
    for name, code in SAVED.items():
        (tmp_path / name).write_text(code)
    for registry in (METHODS, TASKS):
        list(registry)  # discover first
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(scorers, "_SCORERS", dict(scorers._SCORERS))
    monkeypatch.setattr(driver_list, "DRIVERS", list(driver_list.DRIVERS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_example_is_a_file_that_is_used_below_or_is_run() -> None:
    used = {"saliency.py", "red_edges.py", "counts.py", "missed.py", "matrix_layer.py", "my.toml"}
    used |= {"classifier.py", "nodes.py"}
    assert SAVED.keys() - used == set()
    lengths = {name: len([line for line in code.splitlines() if line.strip()]) for name, code in SAVED.items()}
    assert lengths["red_edges.py"] <= 45
    assert lengths["counts.py"] <= 20
    assert {block.language for page in PAGES for block in blocks(page)} <= {"", "python", "toml"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.usefixtures("folder")
def test_python_that_is_no_file_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    classifier = importlib.import_module("classifier")
    given = {"model": classifier.Net(), "graphs": [classifier.make_graph() for _ in range(10)]}
    names: dict[str, Any] = {"__name__": "example", **given}
    for block in blocks(page):
        if block.language == "python" and not block.name:
            exec(compile(block.code, str(page), "exec"), names)


@pytest.mark.usefixtures("folder")
def test_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("check", "saliency", "--plugin", "saliency.py") == 0
    assert "FAILED" not in capsys.readouterr().out
    names = ["--methods", "saliency,integrated-gradients", "--task", "toy"]
    assert exit_code("run", "--plugin", "saliency.py", *names, *SMALL, "--cache-dir", "cache") == 0
    scores = pd.read_csv("results/toy/scores.csv").query("kind == 'method'")
    assert set(scores["method"]) == {"saliency", "integrated-gradients"}
    assert (scores["auroc"] > 0.6).all()
    assert exit_code("score", "results/toy", "--plugin", "saliency.py", "--cache-dir", "cache") == 0
    made = {path.name for path in Path("results/toy").iterdir() if not path.name.startswith(".")}
    page = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([\w./]+)` \| .*", page[page.index("| file | rows |") :], re.MULTILINE)[: len(made)]
    assert {name.rstrip("/") for name in told} == made


@pytest.mark.usefixtures("folder")
def test_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("check", "red-edges", "--plugin", "red_edges.py") == 0
    assert "FAILED" not in capsys.readouterr().out
    arguments = ["--plugin", "red_edges.py", "--task", "red-edges", "--methods", "all", "--cache-dir", "cache"]
    for name in ("gnnexplainer", "graphmask-nonamortized", "information-bottleneck"):
        arguments += ["--set", f"{name}.steps=50"]
    assert exit_code("run", *arguments) == 0
    scores = pd.read_csv("results/red-edges/scores.csv").set_index("method")
    assert float(scores["f1"]["graphmask"]) > 0.95
    assert float(scores["unchanged_zero"]["gold"]) > 0.98  # the gold is what the model uses


@pytest.mark.usefixtures("folder")
def test_the_figure(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--methods", "integrated-gradients", "--task", "toy"]
    assert exit_code("run", "--plugin", "missed.py", *names, *SMALL, "--cache-dir", "cache") == 0
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


def test_the_file_of_options() -> None:
    assert tomllib.loads(SAVED["my.toml"]) == {"run": {"methods": "all", "task": "toy"}, "toy": {"colours": 8}}


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the command and its options as the command line parses them, without running it."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("attribench", list(arguments))
    name, command, rest = group.resolve_command(context, list(arguments))
    options: dict[str, Any] = command.make_context(name, list(rest), parent=context).params
    lists = {name: list(value) or None for name, value in options.items() if isinstance(value, list | tuple)}
    return str(name), options | lists


def plan_of(options: dict[str, Any]) -> Plan:
    """Return the plan of a `run`: names resolve, options are known and within bounds."""
    given = {name: value for name, value in options.items() if name not in ("set_", "config", "dry_run")}
    file = read_config(Path(options["config"])) if options["config"] else {}
    return make_plan(run_options(file.pop("run", {}), **given), file, parse_overrides(options["set_"] or []))


def check_command(arguments: list[str]) -> None:
    """Check a command of the program against the real command line, registries and files."""
    name, options = parsed(arguments)
    if name == "run":
        assert plan_of(options).cells()
        return
    for source in options.get("plugin") or []:
        load_plugin(source)
    if name == "study":
        for table in read_study(ROOT / options["file"]).values():
            assert make_plan(run_options(table)).cells()
    elif name == "check":
        assert options["name"] in [*METHODS, *TASKS]
    elif name == "list":
        registry: Any = {"methods": METHODS, "tasks": TASKS}[options["kind"]]
        assert {base_name(x) for x in options["names"] or []} <= set(registry)
    elif name == "bench":
        assert options["task"] in TASKS
    else:
        assert name in ("score", "clean")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_those_of_the_program(line: str) -> None:
    for part in re.split(r"\s+&&\s+", line):
        words = shlex.split(part, comments=True)
        match words:
            case ["python", "-m", "attribench", *arguments]:
                check_command(arguments)
            case ["python", "-m", module]:
                assert importlib.util.find_spec(module) is not None
            case ["pytest", "-m", marker]:
                assert marker in ("slow", "not slow")
            case ["pytest", path]:
                assert (ROOT / path).is_file()
            case ["tox"]:
                assert "env_list" in TOX
            case ["tox", "-e", name]:
                assert f"[testenv:{name}]" in TOX
            case ["pip", "install", what] | ["pip", "install", "-e", what]:
                assert what in ("tox", ".", ".[test]")
            case _:
                assert part in [command.strip() for command in TOX.splitlines()]


LISTS = {line.partition("#")[0].strip() for line in COMMANDS if line.startswith("python -m attribench list")}
CHEAP = sorted(line for line in LISTS if "--card" not in line)
"""Cards are made, and compared with the pages, in ``test_docs``."""


@pytest.mark.parametrize("line", CHEAP)
def test_lists_are_printed(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*shlex.split(line, comments=True)[3:]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("line", ["run --method x", "run --methods nobody", "run --set toy.colors=8", "lists tasks"])
def test_a_command_that_is_none_would_be_found(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|expected"):
        check_command(shlex.split(line))
