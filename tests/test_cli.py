"""The command line end to end on a small toy, as a user meets it: files, exit codes, one-line errors."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command_helpers import Command, exit_code

from attribench.plugins.method import Method
from attribench.plugins.registry import METHODS, TASKS
from attribench.storing.cells import CellStore

SMALL = [
    *("--set", "toy.train=400", "--set", "toy.validation=60", "--set", "toy.test=40", "--set", "toy.colours=3"),
    *("--set", "toy.width=16", "--set", "toy.hidden=32", "--set", "toy.epochs=40"),
]
SETTINGS = {
    "gnnexplainer": ["steps=30"],
    "graphmask": ["steps=60", "tolerance=1e6", "max_changed=1", "max_retained=1"],
    "graphmask-nonamortized": ["steps=30"],
    "information-bottleneck": ["steps=60"],
}


def quick(*methods: str) -> list[str]:
    """Return the arguments that make methods quick on a small toy."""
    return [*SMALL, *(word for name in methods for x in SETTINGS.get(name, []) for word in ("--set", f"{name}.{x}"))]


@pytest.fixture
def cli(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run the command line in an empty folder, without workers."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: command(*arguments, *(["--jobs", "0"] if arguments[0] == "run" else []))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results folder of all methods on two seeds of a small toy, with its cache of models beside it."""
    root = tmp_path_factory.mktemp("finished")
    arguments = ["run", "--methods", "all", "--task", "toy", "--seeds", "2", *quick(*SETTINGS)]
    assert exit_code(*arguments, "--out", str(root / "r"), "--cache-dir", str(root / "c")) == 0
    return root


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run that a test may change."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def again(root: Path, *more: str, methods: str = "all") -> list[str]:
    """Return the arguments that repeat the finished run, or a part of it in the same folder."""
    small = quick(*(SETTINGS if methods == "all" else methods.split(",")))
    where = ["--out", str(root / "r"), "--cache-dir", str(root / "c")]
    return ["run", "--methods", methods, "--seeds", "2", *small, *where, *more]


def test_run_writes_every_file(finished: Path) -> None:
    run = finished / "r"
    scores = pd.read_csv(run / "scores.csv")
    head = "task method data_seed model_seed fit_seed status reason precision recall f1 precision_macro recall_macro "
    head += "f1_macro auroc average_precision threshold threshold_source threshold_at_end f1_validation f1_paper_grid "
    head += "retained unchanged_own unchanged_zero"
    assert list(scores)[:23] == head.split()
    methods = scores[scores["kind"] == "method"]
    assert set(methods["method"]) == set(METHODS)
    skipped = methods["method"] == "gate-values"
    assert (methods["status"] == skipped.map({True: "skipped", False: "ok"})).all()
    assert (methods["reason"][skipped] == "the model has no gates of its own on its messages").all()
    assert len(methods) == 2 * len(list(METHODS))
    assert set(scores["method"]) >= {"keep-all", "drop-all", "gold", "random(graphmask)", "drop-all(graphmask)"}
    gold = scores[scores["method"] == "gold"]
    assert (gold[["precision", "recall", "f1", "auroc"]] == 1).all(axis=None)
    assert (gold["unchanged_own"] > 0.9).all()
    comparison = pd.read_csv(run / "comparison.csv").set_index("method")
    row, cells = comparison.loc["graphmask"], methods[methods["method"] == "graphmask"]["f1"]
    assert row["f1_mean"] == pytest.approx(cells.mean(), abs=1e-5)
    assert row["f1_std"] == pytest.approx(cells.std(), abs=1e-5)
    assert row["cells"] == 2
    assert pd.isna(row["published_f1"])  # the paper's toy has six colours
    assert pd.isna(row["f1_low"])  # no interval below three cells
    per_graph = pd.read_csv(run / "per_graph.csv")
    mine = per_graph.query("method == 'integrated-gradients' and data_seed == 1")
    assert len(mine) == 40
    score = methods.query("method == 'integrated-gradients' and data_seed == 1").iloc[0]
    assert score["precision"] == pytest.approx(mine["true_positive"].sum() / mine["retained"].sum(), abs=1e-5)
    assert score["unchanged_own"] == pytest.approx(mine["unchanged_own"].mean(), abs=1e-5)
    assert score["diagnostic_completeness_error"] == pytest.approx(
        mine["diagnostic_completeness_error"].mean(), rel=1e-4
    )
    layers, costs, tasks = (pd.read_csv(run / f"{name}.csv") for name in ("layers", "costs", "tasks"))
    assert set(layers["layer"]) == {0}
    assert (layers["metric_without_layer"] < 1).all()
    ran = costs[costs["status"] == "ok"]
    assert (ran[["seconds_per_explanation", "test_forward_passes", "peak_memory_mib"]] > 0).all(axis=None)
    assert {"test", "audit_recolour_gold", "audit_remove_other", "gold_confirmed"} <= set(tasks)
    (provenance,) = json.loads((run / "run.json").read_text())["runs"]
    assert provenance["configuration"]["toy"]["colours"] == 3
    assert {"torch", "torch-geometric"} <= set(provenance["versions"])
    assert not list(run.rglob(".draft-*"))


def test_repeating_runs_no_method_and_gives_the_same_bytes(
    copy: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in (copy / "r").glob("*.csv")}

    def refuse(*_: Any) -> None:
        raise AssertionError("a method was run again")

    for name in METHODS:
        monkeypatch.setattr(METHODS[name], "attribute", refuse)
    assert cli(*again(copy))[0] == 0
    assert {path.name: path.read_bytes() for path in (copy / "r").glob("*.csv")} == before


def test_fresh_runs_give_the_same_csvs_but_for_costs(finished: Path, cli: Command, tmp_path: Path) -> None:
    assert cli(*again(tmp_path, "--cache-dir", str(tmp_path / "fresh")))[0] == 0
    for name in ("scores", "per_graph", "layers", "tasks", "comparison"):
        assert (tmp_path / "r" / f"{name}.csv").read_bytes() == (finished / "r" / f"{name}.csv").read_bytes(), name


def test_score_repeats_the_scoring_alone(copy: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (copy / "r" / "scores.csv").read_bytes()
    for path in (copy / "r").rglob("scores.*"):
        path.unlink()
    for name in METHODS:
        monkeypatch.setattr(METHODS[name], "attribute", None)
    code, out, _ = cli("score", str(copy / "r"), "--cache-dir", str(copy / "c"))
    assert code == 0
    assert "graphmask" in out
    assert (copy / "r" / "scores.csv").read_bytes() == before


def test_score_reads_the_stored_attributions(copy: Path, cli: Command) -> None:
    store, changed = CellStore(copy / "r"), 0
    for path in store.cells.glob("*/attributions.safetensors"):
        record = store.record(path.parent.name)
        assert record is not None
        found = store.attributions(path.parent.name, record, torch.device("cpu"))
        test = found["test"]
        if test.hard_mask is not None and test.baselines is not None and test.baselines[0].dim() == 1:
            found["test"] = replace(test, hard_mask=torch.zeros_like(test.hard_mask))
            store.save(path.parent.name, record.model_dump(), found, "")
            changed += 1
    assert changed == 2
    assert cli("score", str(copy / "r"), "--cache-dir", str(copy / "c"))[0] == 0
    scores = pd.read_csv(copy / "r" / "scores.csv").query("method == 'graphmask'")
    assert (scores["retained"] == 0).all()


def test_a_failing_cell_is_a_row_and_the_others_go_on(
    copy: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Method, graphs: object) -> None:
        raise RuntimeError("no luck\nat all")

    monkeypatch.setattr(METHODS["gnnexplainer"], "attribute", fail)
    code, _, _ = cli(*again(copy, "--overwrite", "always", methods="gnnexplainer,graphmask"))
    assert code == 1
    scores = pd.read_csv(copy / "r" / "scores.csv")
    failed = scores[scores["method"] == "gnnexplainer"]
    assert set(failed["status"]) == {"failed"}
    assert failed["reason"].str.startswith("RuntimeError: no luck (").all()
    assert (scores[scores["method"] == "graphmask"]["status"] == "ok").all()
    logs = [path.read_text() for path in (copy / "r" / "cells").glob("*/log.txt")]
    assert len(logs) == 2
    assert all("no luck\nat all" in log for log in logs)
    monkeypatch.undo()
    assert pd.read_csv(copy / "r" / "comparison.csv").set_index("method").loc["gnnexplainer", "cells"] == 0


def test_a_method_that_changes_the_model_fails(copy: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    attribute = METHODS["integrated-gradients"].attribute

    def tamper(self: Method, graphs: Any) -> Any:
        self.subject.model.readout[0].bias.data.add_(1e-3)  # type: ignore[union-attr, index]
        return attribute(self, graphs)

    monkeypatch.setattr(METHODS["integrated-gradients"], "attribute", tamper)
    assert cli(*again(copy, "--overwrite", "always", methods="integrated-gradients"))[0] == 1
    reason = pd.read_csv(copy / "r" / "scores.csv").query("method == 'integrated-gradients'")["reason"].iloc[0]
    assert "expected the model to be left as found" in reason


def test_ctrl_c_keeps_what_was_finished(cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Method, graphs: object) -> None:
        raise KeyboardInterrupt

    arguments = ["run", *SMALL, "--out", "r", "--cache-dir", "c", "--methods", "integrated-gradients,gnnexplainer"]
    arguments += ["--set", "gnnexplainer.steps=5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS["gnnexplainer"], "attribute", interrupt)
        code, _, err = cli(*arguments)
    assert code == 130
    assert "after 1 of 2 cells; they are kept" in err
    assert set(pd.read_csv("r/scores.csv").query("kind == 'method'")["method"]) == {"integrated-gradients"}
    monkeypatch.setattr(METHODS["integrated-gradients"], "attribute", interrupt)
    assert cli(*arguments)[0] == 0


def test_options_from_a_file_with_the_command_line_on_top(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        '[run]\nmethods = "integrated-gradients"\nfirst-seed = 7\nout = "from-file"\n'
        "[toy]\ntrain = 400\nvalidation = 30\ntest = 20\ncolours = 4\nepochs = 1\n[graphmask]\nsteps = 9\n"
    )
    assert cli("run", "--config", "run.toml", "--set", "toy.colours=3", "--cache-dir", "c")[0] == 0
    (plan,) = json.loads((tmp_path / "from-file" / "run.json").read_text())["runs"]
    assert plan["configuration"]["toy"]["colours"] == 3
    assert plan["configuration"]["toy"]["test"] == 20
    assert plan["plan"]["seeds"] == [7]
    assert plan["plan"]["methods"] == ["integrated-gradients"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--methods", "grafmask"], ["expected a method among", "got 'grafmask'", "Did you mean 'graphmask'"]),
        (["run", "--seeds", "0"], ["run.seeds", "greater than or equal to 1", "got 0"]),
        (["run", "--bogus"], ["--bogus"]),
        (["score"], ["RUN"]),
        (["run", "--config", "listed.toml"], ["run.methods.0", "valid string", "got 3"]),
        (["run", "--plugin", "leaves.py"], ["expected an importable plugin", "SystemExit"]),
        (["run", "--methods", "gnnexplainer[steps=3"], ["expected a variant such as", "close the bracket"]),
        (["run", "--methods", "gnnexplainer[steps=0]"], ["gnnexplainer.steps", "greater than or equal to 1"]),
        (["run", "--task", "toyy"], ["expected a task among", "Did you mean 'toy'"]),
        (["run", "--methods", ","], ["expected at least one method"]),
        (["run", "--set", "toy.colours"], ["expected --set PLUGIN.OPTION=VALUE", "'toy.colours'"]),
        (["run", "--set", "toy.colors=3"], ["expected an option of toy", "Did you mean 'colours'"]),
        (["run", "--set", "toy.colours=2"], ["toy.colours", "greater than or equal to 3", "got '2'"]),
        (["run", "--set", "toy.min_leaves=20"], ["toy.min_leaves <= toy.max_leaves", "20 and 12"]),
        (["run", "--set", "tou.colours=3"], ["got 'tou'"]),
        (["run", "--methods", "graphmask", "--set", "gnnexplainer.steps=3"], ["of this run", "'gnnexplainer'"]),
        (["run", "--device", "tpu"], ["expected --device auto, cpu, cuda or cuda:i", "'tpu'"]),
        (["run", "--device", "cuda:99"], ["expected a CUDA device", "use --device cpu"]),
        (["run", "--config", "absent.toml"], ["expected a readable configuration file", "absent.toml"]),
        (["run", "--config", "bad.toml"], ["expected a TOML file", "bad.toml"]),
        (["run", "--config", "unknown.toml"], ["expected options of a run", "'sedes'"]),
        (["run", "--cache-dir", "file/cache"], ["expected a writable cache folder", "--cache-dir"]),
        (["run", "--out", "file/results"], ["expected a writable folder", "--out"]),
        (["run", "--plugin", "absent.py"], ["expected a plugin file", "absent.py"]),
        (["run", "--plugin", "broken.py"], ["expected an importable plugin", "ZeroDivisionError"]),
        (["score", "nowhere"], ["expected a folder that `run` wrote", "nowhere"]),
        (["list", "models"], ["expected 'methods' or 'tasks'"]),
        (["check", "nothing"], ["expected a method or task among"]),
    ],
)
def test_bad_input_is_one_clear_line(cli: Command, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "bad.toml").write_text("[run\n")
    (tmp_path / "unknown.toml").write_text("[run]\nsedes = 3\n")
    (tmp_path / "listed.toml").write_text("[run]\nmethods = [3]\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = cli(*arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert all(word in err for word in words)
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in str(path)] == before


def test_ctrl_c_asks_for_no_further_model(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Method, graphs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(METHODS["gnnexplainer"], "attribute", interrupt)
    arguments = ["--methods", "integrated-gradients,gnnexplainer", "--seeds", "3", "--out", "r", "--cache-dir", "c"]
    assert cli("run", *SMALL, *arguments)[0] == 130
    assert len(list(Path("c/models").glob("*/weights.safetensors"))) == 1


PLUGIN = """
import torch
from command_helpers import Command, exit_code
from attribench.plugins.method import Attribution, Method
from attribench.plugins.registry import METHODS

class Base(Method):
    def attribute(self, graphs):
        return Attribution(torch.zeros(1, graphs.num_edges), **self.extra(graphs))

@METHODS.register
class Forger(Base):
    name = "forger"
    def extra(self, graphs):
        return {"diagnostics": {"f1": torch.ones(graphs.num_graphs)}}

@METHODS.register
class Mutator(Base):
    name = "a-mutator"
    def extra(self, graphs):
        graphs.edge["edge_type"].zero_()
        return {}

@METHODS.register
class WrongBaseline(Base):
    name = "a-wrong-baseline"
    def extra(self, graphs):
        return {"baselines": (torch.zeros(3),)}
"""


def test_a_bad_method_harms_itself_alone(copy: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    list(METHODS)
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    Path("bad.py").write_text(PLUGIN)
    names = "a-wrong-baseline,a-mutator,forger,integrated-gradients"
    small = [*SMALL, "--seeds", "2", "--cache-dir", str(copy / "c"), "--out", "bad"]
    assert cli("run", "--plugin", "bad.py", "--methods", names, *small)[0] == 1
    scores = pd.read_csv("bad/scores.csv").set_index("method")
    assert set(scores["status"]["a-mutator"]) == {"failed"}
    assert "changed them in place" in scores["reason"]["a-mutator"].iloc[0]
    assert set(scores["status"]["a-wrong-baseline"]) == {"failed"}
    assert list(scores["f1"]["forger"]) == list(scores["f1"]["keep-all"])  # not what it says of itself
    clean = pd.read_csv(copy / "r" / "scores.csv").set_index("method")
    assert list(scores["f1"]["integrated-gradients"]) == list(clean["f1"]["integrated-gradients"])


def test_score_runs_no_failed_cell_and_keeps_the_provenance(
    copy: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Method, graphs: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(METHODS["gnnexplainer"], "attribute", fail)
    cli(*again(copy, "--overwrite", "always", methods="gnnexplainer"))
    monkeypatch.undo()
    before = (copy / "r" / "run.json").read_bytes()
    assert cli("score", str(copy / "r"), "--cache-dir", str(copy / "c"))[0] == 1
    assert (copy / "r" / "run.json").read_bytes() == before
    assert set(pd.read_csv(copy / "r" / "scores.csv").query("method == 'gnnexplainer'")["status"]) == {"failed"}


def test_a_damaged_record_is_run_again(copy: Path, cli: Command) -> None:
    before = (copy / "r" / "scores.csv").read_bytes()
    (copy / "r" / "scores.csv").unlink()
    store, damaged = CellStore(copy / "r"), set()
    for path in store.cells.glob("*/attributions.safetensors"):
        record = store.record(path.parent.name)
        assert record is not None
        if record.content["method"] in ("integrated-gradients", "graphmask"):
            damaged.add(path)
            path.write_bytes(b"PK not really")
            shutil.rmtree(path.parent / "scores")
    assert len(damaged) == 4
    assert cli(*again(copy))[0] == 0
    assert (copy / "r" / "scores.csv").read_bytes() == before
    assert all(path.stat().st_size > 100 for path in damaged)


def test_published_figures_stand_beside_the_papers_settings_alone() -> None:
    toy = TASKS["toy"]
    assert toy(toy.Config(test=7)).published()["graphmask"]["f1"] == 0.994
    assert toy(toy.Config(colours=7)).published() == {}


def test_list_and_check(cli: Command) -> None:
    code, out, _ = cli("list", "methods")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(METHODS)
    code, out, _ = cli("list", "tasks", "toy")
    assert code == 0
    assert "toy.colours=6 (>= 3)" in out
    code, out, _ = cli("check", "integrated-gradients")
    assert code == 0
    assert out.count("ok ") == 24


def test_check_says_what_is_wrong(cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(METHODS)
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom attribench import METHODS, Attribution, Method\n"
        "@METHODS.register\nclass Mine(Method):\n    '''Mine.'''\n    name = 'mine'\n"
        "    def attribute(self, graphs):\n"
        "        return Attribution(torch.rand(self.subject.num_layers, graphs.num_edges).double())\n"
    )
    code, out, _ = cli("check", "mine", "--plugin", "mine.py")
    assert code == 1
    assert "FAILED  equal seeds give equal scores (1 layer): scores differ by" in out
    assert "ok      the model is left as found after success (3 layers)" in out
