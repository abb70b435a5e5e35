"""Variants of methods, partial cells, and the parameter randomisation check, from their parts to the command line."""

import json
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command_helpers import Command

from attribench.base.errors import UserError
from attribench.base.names import split_names
from attribench.checking.methods import ContractModel, random_graphs
from attribench.model.integrity import shuffled
from attribench.plugins.configs import variant_options
from attribench.plugins.method import Method
from attribench.plugins.registry import METHODS, TASKS
from attribench.running.plan import Plan

# Trained for a moment: some predictions hang on several messages.
SMALL = [
    *("--set", "toy.train=200", "--set", "toy.validation=30", "--set", "toy.test=30", "--set", "toy.colours=3"),
    *("--set", "toy.width=16", "--set", "toy.hidden=32", "--set", "toy.epochs=15"),
]
PLUGINS = '''
import torch
from attribench.plugins.method import Attribution, Method
from attribench.plugins.registry import METHODS


@METHODS.register
class Blind(Method):
    """Scores that ignore the model."""

    name = "blind"

    def attribute(self, graphs):
        scores = ((graphs.edge_key % 5 + 1.0) / 10 + (graphs.graph_key % 9)[graphs.edge_graph] / 1000)[None]
        scores = scores.expand(self.subject.num_layers, -1)
        return Attribution(scores.contiguous())


@METHODS.register
class Moving(Blind):
    """Says of itself that its fit ended with its steps."""

    name = "moving"

    def fit(self):
        self.figures = {"unsettled": 1.0}


@METHODS.register
class Same(Method):
    """Equal scores for all messages."""

    name = "same"

    def attribute(self, graphs):
        return Attribution(torch.ones(self.subject.num_layers, graphs.num_edges))


class Unfinished(Method):
    """Finishes graphs as its subclasses say, and retains everything; other graphs score 1."""

    decides = True

    def attribute(self, graphs):
        complete = self.finished(graphs)
        scores = torch.where(complete[graphs.edge_graph], (graphs.edge_key % 5 + 1.0) / 10, 1.0)
        scores = scores.expand(self.subject.num_layers, -1).contiguous()
        return Attribution(scores, hard_mask=scores > 0, complete=complete)


@METHODS.register
class Nothing(Unfinished):
    """Finishes no graph."""

    name = "nothing"

    def finished(self, graphs):
        return graphs.graph_key < 0


@METHODS.register
class OnceOnly(Unfinished):
    """Finishes all graphs of the model, but every other one of that with shuffled weights."""

    name = "once-only"
    models = []

    def finished(self, graphs):
        self.models.append(self.subject.model)
        return (graphs.graph_key % 2 == 0) | (self.subject.model is self.models[0])
'''


def test_names_are_split_at_commas_outside_brackets() -> None:
    assert split_names("a,b[x=1,y=2],c") == ["a", "b[x=1,y=2]", "c"]
    assert split_names("a[x=1],b[y=2]") == ["a[x=1]", "b[y=2]"]
    assert split_names(" a , b[x = 1, y=2] ,") == ["a", "b[x = 1, y=2]"]
    assert split_names("") == []
    assert split_names("a[x=1,b") == ["a[x=1", "b"]


def test_options_of_a_variant() -> None:
    assert variant_options("gnnexplainer") == {}
    assert variant_options("gnnexplainer[steps=5]") == {"steps": "5"}
    assert variant_options("a[steps=5, learning-rate = 0.1]") == {"steps": "5", "learning_rate": "0.1"}
    for bad, words in (("a[x=1", "close the bracket"), ("a[x=1]b", "close the bracket"), ("a[]", "got 'a[]'"),
                       ("a[x]", "got 'a[x]'"), ("a[x=1,]", "got 'a[x=1,]'")):  # fmt: skip
        with pytest.raises(UserError) as caught:
            variant_options(bad)
        assert words in str(caught.value)


def test_a_variant_is_looked_up_as_its_method() -> None:
    assert METHODS["gnnexplainer[steps=5]"] is METHODS["gnnexplainer"]
    assert TASKS["toy[colours=4]"] is TASKS["toy"]
    with pytest.raises(UserError, match="Did you mean 'gnnexplainer'"):
        METHODS["gnnexplaner[steps=5]"]
    names = ["gnnexplainer[steps=5],gnnexplainer[steps=6,learning_rate=0.1]", "gnnexplainer[steps=5]", "gnnexplainer"]
    assert METHODS.resolve(names) == ["gnnexplainer[steps=5]", "gnnexplainer[steps=6,learning_rate=0.1]", names[2]]


def test_a_variants_options_stand_on_top_of_the_methods() -> None:
    names = ["gnnexplainer", "gnnexplainer[steps=6,learning_rate=0.1]", "gnnexplainer[size_weight=1]"]
    options = {"gnnexplainer": {"steps": 7, "entropy_weight": 2}}
    plan = Plan(tasks=["toy", "toy[colours=4]"], methods=names, overrides=options, seeds=[0], device="cpu")
    configs = plan.configs()
    assert [configs[name].steps for name in names] == [7, 6, 7]
    assert [configs[name].learning_rate for name in names] == [0.01, 0.1, 0.01]
    assert [configs[name].size_weight for name in names] == [0.005, 0.005, 1]
    assert [configs[name].entropy_weight for name in names] == [2, 2, 2]
    assert [configs[name].colours for name in plan.tasks] == [6, 4]
    assert len(plan.cells()) == 6


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of models, so that each is trained once in this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cli(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> Command:
    """Run the command line in an empty folder with plugins, without workers."""
    list(METHODS)
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugins.py").write_text(PLUGINS)

    def call(*arguments: str) -> tuple[int, str, str]:
        more = ["--plugin", "plugins.py", "--cache-dir", str(cache)] if arguments[0] in ("run", "score") else []
        more += ["--jobs", "0"] if arguments[0] == "run" else []
        return command(*arguments, *more)

    return call


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(Path("r") / f"{name}.csv")


def rows(name: str, method: str) -> list[dict[Any, Any]]:
    frame = read(name)
    return frame[frame["method"] == method].to_dict("records")


VARIANTS = ["gnnexplainer[steps=5]", "gnnexplainer[steps=6,learning_rate=0.1]"]


def test_variants_have_rows_of_their_own(cli: Command) -> None:
    code, _, _ = cli("run", "--methods", ",".join(VARIANTS), *SMALL, "--out", "r", "--randomised-graphs", "5")
    assert code == 0
    scores = read("scores")
    assert scores[scores["kind"] == "method"]["method"].tolist() == VARIANTS
    for name in VARIANTS:
        assert f"random({name})" in set(scores["method"])
        assert (read("comparison")["method"] == name).sum() == 1
        assert (read("per_graph")["method"] == name).sum() == 30
        assert (read("costs")["method"] == name).sum() == 1
    passes = read("costs").set_index("method")["test_forward_passes"]
    assert passes.tolist() == [6, 7]  # the unmasked pass, then one per step
    run = json.loads(Path("r/run.json").read_text())["runs"][0]["configuration"]
    assert [(run[name]["steps"], run[name]["learning_rate"]) for name in VARIANTS] == [(5, 0.01), (6, 0.1)]
    records = [json.loads(path.read_text())["content"] for path in Path("r/cells").glob("*/record.json")]
    assert sorted(r["content"]["method_config"]["steps"] for r in records) == [5, 6]


def test_an_infeasible_cell_has_the_figures_of_its_fit(cli: Command) -> None:
    code, out, _ = cli("run", "--methods", "graphmask[steps=2,restarts=0],gate-values", *SMALL, "--out", "r")
    assert code == 1
    assert "graphmask[steps=2,restarts=0] (unsettled, keeps nearly all)" in " ".join(out.split())
    (row,) = read("scores").query("status == 'infeasible'").to_dict("records")
    assert (row["fit_steps"], row["fit_retained"], row["fit_unsettled"]) == (2, 1, 1)


def test_the_printed_table_tells_variants_apart(cli: Command) -> None:
    _, out, _ = cli("run", "--methods", ",".join(VARIANTS), *SMALL, "--out", "r", "--randomised-graphs", "0")
    assert "gnnexplainer[steps=5]" in out
    assert "gnnexplainer[steps=6" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gnnexplainer[steps=5", ["expected a variant such as gnnexplainer[steps=100]", "close the bracket"]),
        ("gnnexplainer[steps=5]x", ["close the bracket"]),
        ("gnnexplainer[]", ["OPTION=VALUE", "got 'gnnexplainer[]'", "leave them out"]),
        ("gnnexplainer[steps]", ["OPTION=VALUE", "got 'gnnexplainer[steps]'"]),
        ("gnnexplainer[=5]", ["OPTION=VALUE", "got 'gnnexplainer[=5]'"]),
        ("gnnexplainer[step=5]", ["expected an option of gnnexplainer", "Did you mean 'steps'"]),
        ("gnnexplainer[steps=0]", ["gnnexplainer.steps", "greater than or equal to 1", "got '0'"]),
        ("gnnexplainer[steps=few]", ["gnnexplainer.steps", "valid integer", "got 'few'"]),
        ("gnexplainer[steps=5]", ["expected a method among", "got 'gnexplainer'", "Did you mean 'gnnexplainer'"]),
        ("gnnexplainer]", ["expected a method among", "Did you mean 'gnnexplainer'"]),
        ("all[steps=5]", ["expected a method among", "got 'all'"]),
        ("gate-values[steps=5]", ["expected an option of gate-values", "it has no options"]),
        ("erasure-greedy[steps=5]", ["expected an option of erasure-greedy", "tolerance"]),
    ],
)
def test_a_bad_variant_is_one_clear_line(cli: Command, tmp_path: Path, name: str, words: list[str]) -> None:
    code, out, err = cli("run", "--methods", name, *SMALL, "--out", "r")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words)
    assert not (tmp_path / "r").exists()


# A budget of 14 covers the empty graph and all single messages of up to 12. The two models differ: of the first, every
# prediction hangs on at most one message; of the second, some hang on two or three.
PARTIAL = [
    "run",
    "--methods",
    "erasure,gate-values",
    *SMALL,
    "--set",
    "erasure.budget=14",
    "--set",
    "erasure.pilot=0",
    "--seeds",
    "2",
]


def test_partial_cells_end_to_end(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = cli(*PARTIAL, "--out", "r")
    assert code == 0
    complete, partial = rows("scores", "erasure")
    assert (complete["status"], partial["status"]) == ("ok", "partial")
    assert (complete["data_seed"], partial["data_seed"]) == (0, 1)
    assert complete["coverage"] == 1
    assert 0 < partial["coverage"] < 1
    for row in (complete, partial):
        mine = [graph for graph in rows("per_graph", "erasure") if graph["data_seed"] == row["data_seed"]]
        assert sorted(graph["graph"] for graph in mine) == list(range(30))
        done = [graph for graph in mine if graph["complete"]]
        assert row["coverage"] == pytest.approx(len(done) / 30, abs=1e-5)
        # Scores are over the finished graphs alone; the others are rows without figures.
        recall = sum(graph["true_positive"] for graph in done) / sum(graph["gold"] for graph in done)
        assert row["recall"] == pytest.approx(recall, abs=1e-5)
        assert row["unchanged_zero"] == 1
        assert all(graph["unchanged_zero"] for graph in done)
        assert all(graph["retained_messages"] == graph["diagnostic_size"] for graph in done)
        for graph in mine:
            figures = [graph[name] for name in ("recall", "retained", "diagnostic_size", "edges", "predicted")]
            assert pd.isna(figures).all() == (not graph["complete"])
    count = round(30 * partial["coverage"])
    assert partial["reason"] == f"{count} of 30 graphs finished"
    controls = rows("scores", "random(erasure)")
    assert [row["status"] for row in controls] == ["ok", "partial"]
    assert [row["coverage"] for row in controls] == [1, partial["coverage"]]
    for row in rows("scores", "gate-values"):
        assert row["status"] == "skipped"
        assert row["reason"] == "the model has no gates of its own on its messages"

    compared = rows("comparison", "erasure")
    assert [row["status"] for row in compared] == ["ok", "partial"]
    for mean, row in zip(compared, (complete, partial), strict=True):
        assert (mean["cells"], mean["planned"], mean["statuses"]) == (1, 2, "ok:1 partial:1")
        for figure in ("f1", "retained", "coverage"):
            assert mean[f"{figure}_mean"] == pytest.approx(row[figure], abs=1e-5)
    assert complete["f1"] != partial["f1"]
    assert [row["status"] for row in rows("comparison", "gold")] == ["ok"]
    assert "erasure (partial)" in out
    assert f"toy · erasure · seed 1: partial: {count} of 30 graphs finished" in out

    # A partial cell is finished: the same command runs nothing and gives the same files.
    before = {path.name: path.read_bytes() for path in Path("r").glob("*.csv")}
    monkeypatch.setattr(METHODS["erasure"], "attribute", None)
    assert cli(*PARTIAL, "--out", "r")[0] == 0
    assert {path.name: path.read_bytes() for path in Path("r").glob("*.csv")} == before


def test_more_budget_finishes_what_was_partial(cli: Command) -> None:
    arguments = [argument.replace("budget=14", "budget=5000") for argument in PARTIAL]
    assert cli(*arguments, "--out", "r", "--first-seed", "1", "--seeds", "1", "--randomised-graphs", "0")[0] == 0
    assert read("scores").query("method == 'erasure'")["status"].tolist() == ["ok"]
    sizes = [row["diagnostic_size"] for row in rows("per_graph", "erasure")]
    assert len(sizes) == 30
    assert max(sizes) > 1


def test_a_method_that_is_not_made_for_these_graphs_is_skipped_with_its_reason(cli: Command) -> None:
    code, out, _ = cli("run", "--methods", "erasure", *SMALL, "--set", "erasure.budget=1", "--seeds", "2", "--out", "r")
    assert code == 0
    found = {row["data_seed"]: row["status"] for row in rows("scores", "erasure")}
    assert "skipped" in found.values()
    assert "skipped: exact search finishes " in out
    assert "within 1 subsets each; erasure-greedy is its approximation" in " ".join(out.split())


def test_a_cell_that_finished_no_graph_has_no_scores(cli: Command) -> None:
    assert cli("run", "--methods", "nothing", *SMALL, "--out", "r", "--randomised-graphs", "0")[0] == 0
    (row,) = rows("scores", "nothing")
    assert (row["status"], row["coverage"]) == ("partial", 0)
    assert pd.isna([row[name] for name in ("precision", "recall", "f1")]).all()


@pytest.fixture
def model() -> Iterator[ContractModel]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield ContractModel(2).double().eval()


def test_shuffling_keeps_the_shapes_and_values_of_every_parameter(model: ContractModel) -> None:
    before = deepcopy(model.state_dict())
    model.readout.bias.requires_grad_(False)
    other = shuffled(model, 1)
    assert type(other) is type(model)
    for (name, a), (same, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert name == same
        assert (a.shape, a.dtype, a.requires_grad) == (b.shape, b.dtype, b.requires_grad)
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)
        assert torch.equal(a, before[name])  # the model itself is untouched
        assert (a == a.flatten()[0]).all() or a.numel() < 9 or not torch.equal(a, b)
    graphs = random_graphs(5, "shuffled")
    assert not torch.allclose(model(graphs), other(graphs))


def test_shuffling_is_decided_by_the_seed(model: ContractModel) -> None:
    first = shuffled(model, 1).state_dict()
    torch.rand(3)
    again, other = shuffled(model, 1).state_dict(), shuffled(model, 2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["readout.weight"], other["readout.weight"])


def test_a_method_that_ignores_the_model_correlates_perfectly(cli: Command) -> None:
    arguments = ["run", "--methods", "blind,same,integrated-gradients", *SMALL, "--out", "r"]
    assert cli(*arguments)[0] == 0
    names = ("blind", "same", "integrated-gradients", "gold")
    blind, same, gradients, gold = (rows("scores", name)[0]["randomisation_correlation"] for name in names)
    assert blind == 1
    assert -1 <= gradients < 0.99
    assert pd.isna(same)  # constant scores correlate with nothing
    assert pd.isna(gold)
    assert rows("comparison", "blind")[0]["randomisation_correlation_mean"] == 1


def test_only_a_method_that_says_whether_it_settled_has_it_said_in_tables(cli: Command) -> None:
    code, output, _ = cli("run", "--methods", "moving,blind", *SMALL, "--out", "r", "--randomised-graphs", "0")
    assert code == 0
    (moving,), (blind,) = (
        [x for x in output.splitlines() if x.startswith(f" {name} ")] for name in ("moving", "blind")
    )
    assert "unsettled)" in moving
    assert "unsettled" not in blind
    table = pd.read_csv("r/comparison.csv").set_index("method")["fit_unsettled"]
    assert str(table["moving"]) == "True"
    assert table.drop("moving").isna().all()


def test_without_randomised_graphs_there_is_no_such_column(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    attribute = METHODS["integrated-gradients"].attribute

    def count(self: Method, graphs: Any) -> Any:
        calls.append(graphs.num_graphs)
        return attribute(self, graphs)

    monkeypatch.setattr(METHODS["integrated-gradients"], "attribute", count)
    arguments = ["run", "--methods", "integrated-gradients", *SMALL, "--out", "r"]
    assert cli(*arguments, "--randomised-graphs", "0")[0] == 0
    assert calls == [30, 30]
    for name in ("scores", "comparison", "costs"):
        assert not [column for column in read(name).columns.astype(str) if "randomis" in column]
    code, _, err = cli(*arguments, "--randomised-graphs", "7")  # another question, so another cell
    assert (code, "randomised_graphs=0, and now randomised_graphs=7: choose another --out" in err) == (2, True)
    shutil.rmtree("r")
    assert cli(*arguments, "--randomised-graphs", "7")[0] == 0
    assert calls == [30, 30, 30, 30, 7]
    assert "randomisation_correlation" in read("scores")


def test_graphs_unfinished_for_shuffled_weights_are_not_compared(cli: Command) -> None:
    """Half of the graphs are finished for the shuffled model, with equal scores; the others' scores mean nothing."""
    assert cli("run", "--methods", "once-only", *SMALL, "--out", "r")[0] == 0
    (row,) = rows("scores", "once-only")
    assert (row["status"], row["coverage"]) == ("ok", 1)
    correlation = row["randomisation_correlation"]
    assert pd.isna(correlation) or correlation == pytest.approx(1)
