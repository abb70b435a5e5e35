"""Hostile files and names on the command line: run.json, configurations, studies, plugins."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_helpers import Command
from hostile_helpers import (
    KEY,
    PICKLE,
    TEXTS,
    Change,
    Folder,
    assert_clear,
    endless,
    large,
    loop,
    nested,
    pipe,
    put_in,
)

from attribench.base.errors import UserError
from attribench.plugins.configs import read_config
from attribench.plugins.registry import Registry, load_plugin
from attribench.plugins.task import Task

pytest_plugins = ["hostile_fixtures"]
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded and counted as on Linux"),
    pytest.mark.usefixtures("place"),
]

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


def test_score_runs_the_plugins_that_are_named(folder: Folder, cli: Command) -> None:
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


def test_configurations_that_are_not_hostile_are_read(tmp_path: Path) -> None:
    text = "".join(f'[toy-{i}]\nmethods = ["a[learning_rate=0.{i}]", "b[x=0.5]"]\n' for i in range(100))
    (tmp_path / "run.toml").write_text(text)
    assert len(read_config(tmp_path / "run.toml")) == 100
