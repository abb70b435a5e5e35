"""A key is all that decides a result: the code that imports reach, and the files that are read."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command_helpers import exit_code

from attribench import METHODS, TASKS, TaskSeeds, UserError, Workshop
from attribench.base import closure
from attribench.base.closure import code_digest, modules_reached, plugin_modules
from attribench.base.pieces import Cell
from attribench.base.reading import files_read, refuse_undeclared, unwatched
from attribench.explaining.job import Job
from attribench.plugins.configs import make_config
from attribench.plugins.registry import load_plugin, read_while_imported
from attribench.plugins.task import build_problem, without_cache
from attribench.running.keys import score_key
from attribench.scoring import scorers
from attribench.scoring.judge import score_method

CELL = Cell("toy", "graphmask", 0, 0, 0)


def forget() -> None:
    """Forget what was known of modules."""
    for function in (code_digest, modules_reached):
        function.cache_clear()
    importlib.invalidate_caches()


@pytest.fixture(autouse=True)
def read_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Read a module anew for every digest, but for the harness's own: no test edits them, and there are many."""
    kept = closure._read

    def read(path: Path, name: str | None) -> tuple[str, tuple[str | Path, ...]]:
        of_harness = name is not None and name.partition(".")[0] == closure.FACE
        return (kept if of_harness else kept.__wrapped__)(path, name)

    monkeypatch.setattr(closure, "_read", read)
    yield
    forget()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """Return a function that writes modules of a package ``closure_sample`` and forgets what was known of it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        forget_sample()

    def forget_sample() -> None:
        for name in [name for name in sys.modules if name.startswith("closure_sample")]:
            del sys.modules[name]
        forget()

    yield write
    forget_sample()


BASE = {
    "closure_sample/__init__.py": "",
    "closure_sample/task.py": "from .constants import SIZE\nfrom . import sibling\nx = SIZE\n",
    "closure_sample/constants.py": "SIZE = 1\n",
    "closure_sample/sibling.py": "import closure_sample.deep.er\n",
    "closure_sample/deep/__init__.py": "",
    "closure_sample/deep/er.py": "def f():\n    from closure_sample import late\n    return late\n",
    "closure_sample/late.py": "import closure_sample_beside\n__import__('closure_sample.byname')\n",
    "closure_sample/byname.py": "BY = 1\n",
    "closure_sample_beside.py": "import numpy as np\nfrom attribench import Task\nY = 1\n",
    "closure_sample/typing_only.py": "Z = 1\n",
    "closure_sample/other.py": "OTHER = 1\n",
}
EDITS = {
    "the module itself": {
        "closure_sample/task.py": "from .constants import SIZE\nfrom . import sibling\nx = SIZE + 1\n"
    },
    "a constant that is imported": {"closure_sample/constants.py": "SIZE = 2\n"},
    "a sibling imported as a module": {"closure_sample/sibling.py": "import closure_sample.deep.er\nx = 1\n"},
    "a module in a package": {"closure_sample/deep/er.py": BASE["closure_sample/deep/er.py"] + "\nx = 1\n"},
    "the package around it": {"closure_sample/deep/__init__.py": "x = 1\n"},
    "a module imported in a function": {"closure_sample/late.py": "import closure_sample_beside\nx = 1\n"},
    "a helper module beside": {"closure_sample_beside.py": BASE["closure_sample_beside.py"] + "x = 2\n"},
    "a module imported by name": {"closure_sample/byname.py": "BY = 2\n"},
    "another name of a library": {"closure_sample_beside.py": "import scipy\nfrom attribench import Task\nY = 1\n"},
}
SAME = {
    "a comment": {"closure_sample/constants.py": "# how many\nSIZE = 1  # one\n"},
    "a docstring": {"closure_sample/constants.py": '"""How many."""\nSIZE = 1\n'},
    "layout": {"closure_sample/constants.py": "SIZE = (\n    1\n)\n"},
    "a module that nothing imports": {"closure_sample/other.py": "OTHER = 2\n"},
}


@pytest.mark.parametrize("name", [*EDITS, *SAME])
def test_a_digest_changes_with_what_is_imported_and_with_nothing_else(
    name: str, write: Callable[[dict[str, str]], None]
) -> None:
    write(BASE)
    before = code_digest("closure_sample.task")
    write(BASE)
    assert code_digest("closure_sample.task") == before
    write(EDITS.get(name) or SAME[name])
    assert (code_digest("closure_sample.task") != before) == (name in EDITS)


def test_what_is_imported_for_type_checkers_decides_nothing(write: Callable[[dict[str, str]], None]) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import typing_only\n"
    text += "else:\n    from . import other\n"
    write({**BASE, "closure_sample/task.py": text})
    before = code_digest("closure_sample.task")
    write({"closure_sample/typing_only.py": "Z = 2\n"})
    assert code_digest("closure_sample.task") == before
    write({"closure_sample/other.py": "OTHER = 2\n"})
    assert code_digest("closure_sample.task") != before


def test_exchanged_contents_and_texts_that_name_no_file(write: Callable[[dict[str, str]], None]) -> None:
    text = (
        "from . import other, late\nx = '" + "a" * 300 + ".py'\nif not TYPE_CHECKING:\n    from . import typing_only\n"
    )
    write({**BASE, "closure_sample/task.py": "TYPE_CHECKING = False\n" + text, "closure_sample/late.py": "Y = 2\n"})
    before = code_digest("closure_sample.task")
    write({"closure_sample/late.py": BASE["closure_sample/other.py"], "closure_sample/other.py": "Y = 2\n"})
    exchanged = code_digest("closure_sample.task")
    write({"closure_sample/typing_only.py": "Z = 5\n"})
    assert len({before, exchanged, code_digest("closure_sample.task")}) == 3


def test_a_file_loaded_by_its_name_decides_too(write: Callable[[dict[str, str]], None]) -> None:
    text = "import importlib.util as u\nfrom pathlib import Path\n"
    text += 's = u.spec_from_file_location("closure_sample_h", Path(__file__).parent / "late.py")\n'
    write({**BASE, "closure_sample/task.py": text})
    before = code_digest("closure_sample.task")
    write({"closure_sample_beside.py": "Y = 3\n"})  # which late.py imports
    assert code_digest("closure_sample.task") != before


def test_names_of_the_face_lead_to_the_modules_that_define_them(write: Callable[[dict[str, str]], None]) -> None:
    write({**BASE, "closure_sample/task.py": "from attribench import GraphBatch, derive\n"})
    assert modules_reached("closure_sample.task") == {
        "closure_sample.task",
        "attribench.model",
        "attribench.base",
        *(
            "attribench.model.graphs",
            "attribench.model.graph_checks",
            "attribench.base.errors",
            "attribench.base.seeds",
        ),
    }


def test_a_module_that_python_cannot_find_is_named() -> None:
    with pytest.raises(UserError, match=r"source of module 'closure_sample_nowhere'; .* --plugin"):
        code_digest("closure_sample_nowhere")


def executed(act: Callable[[], Any]) -> tuple[Any, set[str]]:
    """Return what a function returns, and the modules of the harness and its plugins whose code it ran."""
    modules: set[str] = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        modules.add(frame.f_globals.get("__name__", ""))

    sys.setprofile(note)
    try:
        result = act()
    finally:
        sys.setprofile(None)
    made_by_pyg = {name for name in modules if name.endswith("_propagate")}
    return result, {name for name in modules - made_by_pyg if name.startswith("attribench")}


ASIDE = {
    "attribench",
    "attribench.storing.records",
    "attribench.explaining.costs",
    "attribench.base.progress",
    "attribench.base.files",
    "attribench.storing.cells",
    "attribench.storing.models",
}
"""Modules that move bytes, measure or show, and decide no figure."""


@pytest.mark.parametrize("method", ["graphmask", "integrated-gradients", "erasure-greedy", "information-bottleneck"])
def test_the_code_that_runs_is_the_code_that_the_keys_are_of(method: str) -> None:
    kind, task = METHODS[method], TASKS["toy"]
    of_model = modules_reached("attribench.plugins.task", *plugin_modules(task))
    of_attribution = of_model | modules_reached("attribench.explaining.job", *plugin_modules(kind))
    of_score = of_attribution | modules_reached("attribench.scoring.judge")
    config = make_config("toy", task.Config, {**task.quick, "train": 60, "epochs": 1})
    workshop = Workshop(torch.device("cpu"), without_cache)
    built, ran = executed(lambda: build_problem(task(config), TaskSeeds(0, 0), workshop))
    assert ran - ASIDE <= of_model
    quick = make_config(method, kind.Config, kind.quick)
    outcome, ran = executed(Job(kind, quick, CELL, built, 100_000, 5).run)
    assert outcome.status == "ok"
    assert ran - ASIDE <= of_attribution
    rows, ran = executed(lambda: score_method(CELL, built, outcome.attributions, {}, 100_000))
    assert rows[0].figures["f1"] is not None
    assert ran - ASIDE <= of_score


def test_scorers_and_tellers_are_no_part_of_what_trains_and_attributes() -> None:
    aside = ("attribench.cli", "attribench.running", "attribench.telling", "attribench.storing")

    def of(*roots: str) -> set[str]:
        return {name for name in modules_reached(*roots) if name.startswith((*aside, "attribench.scoring"))}

    for task in TASKS:
        assert not of("attribench.plugins.task", *plugin_modules(TASKS[task]))
    for method in METHODS:
        assert not of("attribench.explaining.job", *plugin_modules(METHODS[method]))
    decides = {"attribench.scoring.judge", "attribench.scoring.gold", "attribench.scoring.decision"}
    assert decides <= of("attribench.scoring.judge")
    assert not {name for name in of("attribench.scoring.judge") if name.startswith(aside)}


def test_files_that_are_read_are_noticed(tmp_path: Path) -> None:
    data, made, code = tmp_path / "data.csv", tmp_path / "made.txt", tmp_path / "helper.py"
    data.write_text("1")
    in_thread = tmp_path / "thread.csv"
    in_thread.write_text("3")
    code.write_text("x = 1")
    with files_read() as read:
        data.read_bytes()
        with unwatched():
            (tmp_path / "helper.py").read_text()
        code.read_text()
        made.write_text("2")
        made.read_text()  # its own
        Path(os.__file__).read_text()
        os.close(os.open(data, os.O_RDONLY))
        with ThreadPoolExecutor() as pool:
            pool.submit(in_thread.read_text).result()
    assert list(read) == [str(data), str(in_thread)]
    data.read_text()
    assert list(read) == [str(data), str(in_thread)]
    refuse_undeclared("t", read, {"numbers": data, "more": in_thread})
    with pytest.raises(UserError, match=r"t: expected files .*data.csv.*: let sources\(\) return it"):
        refuse_undeclared("t", read, {"others": tmp_path / "other.csv"})


TASK = '''
"""A task of a stranger."""
import torch
from pathlib import Path
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GraphConv
from attribench import TASKS, GraphBatch, GraphClassification, GraphModel, Problem, Split, Task, generator
from closure_sample_e2e import EDGES

TOP = float((Path(__file__).parent / "top.txt").read_text())

class Net(GraphModel):
    def __init__(self):
        super().__init__()
        self.c, self.o = GraphConv(2, 4), nn.Linear(4, 2)
    def decode(self, graphs, state):
        h = self.c(graphs["x"], graphs.edge_index)
        return self.o(h.new_zeros(graphs.num_graphs, 4).index_add(0, graphs.batch, h))

def split(name):
    draw = generator(name)
    edges = [torch.randint(4, (2, EDGES), generator=draw) for _ in range(20)]
    graphs = [Data(x=torch.randn(4, 2, generator=draw), edge_index=pairs) for pairs in edges]
    batch = GraphBatch.from_data_list(graphs, name=name)
    return Split(batch, torch.arange(20) % 2, torch.rand(1, batch.num_edges, generator=draw) < 0.5)

@TASKS.register
class Mine(Task):
    """Mine."""
    name = "mine"
    def sources(self):
        return SOURCES
    def build(self, seeds, workshop):
        share = float(DATA.read_text())
        splits = {n: split(n) for n in ("train", "validation", "test")}
        return Problem(Net(), GraphClassification(), splits, figures={"share": share, "top": TOP})
'''


def test_an_edited_plugin_runs_anew_and_an_unedited_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, helper = tmp_path / "share.txt", tmp_path / "closure_sample_e2e.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which is told from its source by second and size
    list(TASKS)
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    monkeypatch.chdir(tmp_path)

    def run(
        edges: int = 5, share: str = "0.5", sources: str = '{"share": DATA}', top: str = "5"
    ) -> tuple[int, list[float], int]:
        """Write the files and run; return exit code, shares and edges in the tables, and cells that were made."""
        for registry in (METHODS, TASKS):
            list(registry)
        TASKS._entries.pop("mine", None)
        for name in [n for n in sys.modules if n == "closure_sample_e2e" or n.startswith("attribench_plugin")]:
            del sys.modules[name]
        forget()
        data.write_text(share)
        (tmp_path / "top.txt").write_text(top)
        helper.write_text(f"EDGES = {edges}\n")
        (tmp_path / "p.py").write_text(TASK.replace("SOURCES", sources).replace("DATA", f"Path({str(data)!r})"))
        there = set((tmp_path / "r" / "cells").glob("*"))
        arguments = ["run", "--plugin", "p.py", "--task", "mine", "--methods", "erasure-greedy", "--jobs", "0"]
        arguments += ["--randomised-graphs", "0", "--out", "r", "--cache-dir", "c"]
        code = exit_code(*arguments)
        new = set((tmp_path / "r" / "cells").glob("*")) - there
        edges_seen = pd.read_csv("r/per_graph.csv").query("method == 'erasure-greedy'")["edges"].iloc[0]
        tasks = pd.read_csv("r/tasks.csv")
        assert list(tasks["top"]) == [float(top)]
        found = [edges_seen, *tasks["share"]]
        return code, list(map(float, found)), len(new)

    assert run() == (0, [5, 0.5], 2)
    assert run() == (0, [5, 0.5], 0)
    assert run(edges=6) == (0, [6, 0.5], 2)
    assert run(edges=6, share="0.25") == (0, [6, 0.25], 2)
    assert run(edges=6, share="0.25") == (0, [6, 0.25], 0)
    assert run(edges=6, share="0.25", top="7") == (0, [6, 0.25], 2)  # which is read where the plugin is imported
    capsys.readouterr()
    with pytest.raises((KeyError, IndexError)):  # no figures for a table
        run(edges=6, share="0.125", sources="{}")
    assert "share.txt': let sources() return it" in capsys.readouterr().err.replace("\n", " ")
    TASKS._entries.pop("mine", None)


def test_the_face_gives_what_it_says_whatever_was_imported_before() -> None:
    """A module of the package called like one of the names would take its place as soon as it is imported."""
    import attribench

    exports = attribench._exports()
    assert len(exports) > 40
    for name, module in exports.items():
        defined = getattr(importlib.import_module(module), name)
        assert getattr(attribench, name) is defined
        assert f"attribench.{name}" not in sys.modules
        assert importlib.util.find_spec(f"attribench.{name}") is None
    assert set(exports) <= set(dir(attribench))
    with pytest.raises(ImportError, match="nothing_of_this_name"):
        from attribench import nothing_of_this_name  # noqa: F401


def test_what_a_scorer_reads_at_import_decides_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "_SCORERS", dict(scorers._SCORERS))
    (tmp_path / "weight.txt").write_text("1")
    text = "from pathlib import Path\nfrom attribench import scorer\n"
    text += "WEIGHT = float((Path(__file__).parent / 'weight.txt').read_text())\n"
    text += "@scorer('weighed')\ndef weighed(view):\n    return {'weighed': WEIGHT}\n"
    (tmp_path / "weigh.py").write_text(text)
    alone = score_key("0" * 32)
    load_plugin(str(tmp_path / "weigh.py"))
    before = score_key("0" * 32)
    assert before == score_key("0" * 32) != alone
    (tmp_path / "weight.txt").write_text("2")
    assert score_key("0" * 32) != before


def test_a_plugin_that_is_the_first_to_ask_for_plugins_has_read_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "other-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[another.group]\nname = json\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "first.py").write_text(
        "from attribench.plugins.registry import Registry\nlist(Registry('task', 'attribench.tasks'))\n"
    )
    load_plugin(str(tmp_path / "first.py"))
    (module,) = [name for name in sys.modules if name.startswith("attribench_plugin_first_")]
    assert read_while_imported(module) == {}
    del sys.modules[module]
