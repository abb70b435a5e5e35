"""The catalogue of figures: names, places, families; scorers of strangers; words that decide no result."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_helpers import Command
from test_scoring import LAYERED, STARS, attributions, chains

from attribench.base.closure import modules_reached
from attribench.base.errors import UserError
from attribench.base.pieces import Cell
from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.model.recording import Recording
from attribench.plugins.method import Attribution
from attribench.plugins.registry import TASKS
from attribench.scoring import scorers as registry
from attribench.scoring.figures import CATALOGUE, LAST, entry_of, figure_of, needs_of
from attribench.scoring.judge import Judge
from attribench.scoring.passes import Asking, Masked, masked_passes
from attribench.scoring.row import Scores
from attribench.scoring.scorers import GOLD, NO_GOLD, SEVERAL_LAYERS, THRESHOLD, Made, Value, scorer, scorers
from attribench.scoring.view import View
from attribench.storing.records import About
from attribench.telling.glossary import glossary
from attribench.telling.tables import KEYS, Report, _spread

REFERENCE = Path(__file__).parent.parent / "results" / "reference"


@pytest.fixture
def own_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget afterwards what a test registers."""
    monkeypatch.setattr(registry, "_SCORERS", dict(registry._SCORERS))


def stars() -> Scores:
    with Judge(STARS) as judge:
        return judge.score("method", attributions())


def layered(gold: list[list[int]] | None = None) -> Scores:
    with Judge(chains(gold)) as judge:
        return judge.score("method", {"test": Attribution(LAYERED, hard_mask=LAYERED > 0.5)})


def test_the_catalogue_has_all_that_the_harness_scores() -> None:
    names = [re.sub(r"\{\w+\}", "0", name) for one in scorers() for name in one.names]
    assert not [name for name in names if entry_of(name) not in CATALOGUE]
    for row in (stars(), layered(), layered([[1, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 0]])):
        assert not [name for name in row.figures if entry_of(name) not in CATALOGUE]
        assert not [name for name in row.per_graph if name != "graph" and entry_of(name, "per_graph") not in CATALOGUE]
        assert not [x for layer in row.layers for x in layer if x != "layer" and entry_of(x, "layers") not in CATALOGUE]
    assert all(figure.meaning for figure in CATALOGUE)


def test_places_are_of_one_figure_each() -> None:
    for places in (
        [figure.place for figure in CATALOGUE if figure.place not in (None, LAST)],
        [figure.compared for figure in CATALOGUE if figure.compared is not None and "thinned" not in figure.name
         and "layer_{k}" not in figure.name],
        [figure.drop for figure in CATALOGUE if figure.label and figure.drop and figure.table != "tasks"],
        [(figure.name, figure.table) for figure in CATALOGUE],
        [figure.label for figure in CATALOGUE if figure.label],
    ):  # fmt: skip
        assert max(Counter(places).values()) == 1


def test_the_narrowest_family_is_meant_and_a_figure_inside_it_is_read_as_itself() -> None:
    assert entry_of("f1_layer_12").name == "f1_layer_{k}"
    assert entry_of("auroc_layer_0").name == "{figure}_layer_{k}"
    assert entry_of("metric_fall_thinned_to_0.75").label == "fall¾"
    assert entry_of("metric_fall_thinned_to_0.5").label == ""
    within = figure_of("f1_predicted_1")
    assert (within.name, within.higher_is_better, within.unit) == ("f1_predicted_1", True, "share")
    assert within.meaning.startswith(figure_of("f1").meaning)
    assert figure_of("unchanged_own_predicted_1").meaning.startswith(figure_of("unchanged_own").meaning)
    assert (figure_of("retained").unit, figure_of("retained", "per_graph").unit) == ("share", "count")
    assert figure_of("gold_confirmed", "layers") == figure_of("gold_confirmed")
    assert (figure_of("f1").pairs_on, figure_of("f1_macro").pairs_on) == ("cell", "graph")
    assert figure_of("diagnostic_steps").per_graph == "diagnostic_steps"


def test_an_unknown_figure_has_its_name_and_goes_last() -> None:
    unknown = figure_of("wonder")
    assert (unknown.name, unknown.label, unknown.meaning, unknown.higher_is_better) == ("wonder", "wonder", "", None)
    assert unknown.place == unknown.compared == LAST
    table = glossary({"scores": ["wonder", "f1", "status"], "tasks": ["test"]}, {"test": "accuracy", "f1": "theirs"})
    assert table["figure"].tolist() == ["f1", "wonder", "test"]
    assert table["label"].tolist() == ["F1", "wonder", "test"]
    assert table["meaning"].tolist() == [figure_of("f1").meaning, "", "accuracy"]


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*/*/tasks.csv")), ids=lambda path: "-".join(path.parts[-3:-1]))
def test_every_figure_of_the_tasks_that_come_along_has_a_meaning(path: Path) -> None:
    frame = pd.read_csv(path)
    said = {name: meaning for task in frame["task"] for name, meaning in TASKS[task].meanings.items()}
    table = glossary({"tasks": [str(name) for name in frame if name not in KEYS]}, said)
    assert table.loc[table["meaning"] == "", "figure"].tolist() == []


def test_needs_are_said_and_honoured(own_scorers: None) -> None:
    assert (needs_of("f1"), needs_of("metric_fall"), needs_of("retained")) == (("gold",), ("no gold",), ())
    assert needs_of("f1_at_threshold_0.5") == ("gold", "soft scores")
    assert needs_of("f1_layer_1") == ("gold of every layer", "several layers")
    for need in (GOLD, NO_GOLD, SEVERAL_LAYERS, THRESHOLD):
        scorer(need.text, needs=[need])(saying(need.text))
    texts = {need.text for need in (GOLD, NO_GOLD, SEVERAL_LAYERS, THRESHOLD)}
    assert texts & set(stars().figures) == {"gold", "soft scores"}
    assert texts & set(layered().figures) == {"no gold", "several layers"}


@pytest.mark.parametrize("what", ["truth", "mask"])
def test_a_scorer_that_changes_what_it_is_given_is_refused(own_scorers: None, what: str) -> None:
    def greedy(view: View) -> dict[str, float]:
        getattr(view, what).fill_(True)
        return {"greedy": 1.0}

    scorer("greedy")(greedy)
    with pytest.raises(ValueError, match="expected greedy to leave what it is given as it is"):
        layered([[1, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 0]])


def test_a_scorer_asks_for_passes_which_are_made_with_those_of_others(
    own_scorers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> tuple[list[Scores], int, int]:
        with Judge(STARS, max_edges=3) as judge:  # a graph in a part, so that nothing is kept from walk to walk
            before = judge._gates.forward_passes
            found = judge.method_and_controls("method", attributions(), seed=0)
            return found, recorded.count(1), judge._gates.forward_passes - before

    def counting(gates: Gates, graphs: GraphBatch) -> Recording:
        recorded.append(graphs.num_graphs)
        return record(gates, graphs)

    recorded, record = list[int](), Gates.record
    monkeypatch.setattr(Gates, "record", counting)
    plain, records, passes = rows()
    _, again, _ = rows()
    assert again == 2 * records
    assert records == 1 + 4 + 2 * 4  # of both splits at the start, of test graphs in a walk for each row
    asked = list[Masked]()

    @scorer("kept_by_none")
    def kept_by_none(view: View) -> Asking[dict[str, float]]:
        asked.append(Masked(torch.zeros_like(view.mask)))
        (logits,) = yield asked[-1:]
        (same,) = yield [Masked(view.mask, view.baselines)]
        assert torch.equal(masked_passes(view.recording, [view.mask], view.baselines)[0], same)
        return {
            "kept_by_none": float(view.output.unchanged(view.recording.logits, logits, view.graphs).double().mean())
        }

    found, _, more = rows()
    assert [row.figures.pop("kept_by_none") for row in found] == [0.5, 0.5]
    assert [row.figures for row in found] == [row.figures for row in plain]
    assert more > passes


@pytest.mark.parametrize("asked", [torch.ones(1, 10), [torch.ones(1, 10)], {"mask": 1}])
def test_a_scorer_that_asks_for_no_passes_is_refused(own_scorers: None, asked: Any) -> None:
    @scorer("odd")
    def odd(view: View) -> Any:
        yield asked
        return {"odd": 1.0}

    with pytest.raises(ValueError, match=r"expected odd to ask for passes with 'yield \[Masked\(mask\), ...\]'"):
        stars()


def test_a_scorer_that_changes_what_it_is_given_after_it_asked_is_refused(own_scorers: None) -> None:
    @scorer("late")
    def late(view: View) -> Asking[dict[str, float]]:
        yield [Masked(view.mask)]
        view.mask.fill_(True)
        return {"late": 1.0}

    with pytest.raises(ValueError, match="expected late to leave what it is given as it is"):
        stars()


@pytest.mark.parametrize(("made", "message"), [(10**400, "at most 64 bits for 'odd'"), ("text", "a number for 'odd'")])
def test_figures_that_cannot_be_kept_are_refused(own_scorers: None, made: Any, message: str) -> None:
    scorer("odd")(lambda view: {"odd": made})
    with pytest.raises(ValueError, match=message):
        layered()


def test_what_is_no_figure_is_refused(own_scorers: None) -> None:
    scorer("odd")(lambda view: None)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="to return figures by name; got NoneType"):
        layered()


def saying(name: str) -> Callable[[View], Mapping[str, Value]]:
    """Return the function of a scorer that gives 1."""

    def one(view: View) -> Mapping[str, Value]:
        return {name: 1.0}

    one.__qualname__ = f"saying {name}"
    return one


def test_a_scorer_makes_what_it_lists_and_nobody_elses_figures(own_scorers: None) -> None:
    @scorer("one", "some_{what}")
    def made(view: View) -> Mapping[str, Value]:
        return {"one": 1.0, "some_more": 2.0, "two": 3.0}

    with pytest.raises(ValueError, match=r"expected made to make one, some_\{what\}; got 'two': list it in @scorer"):
        stars()
    for name in ("one", "some_thing", "f1_layer_3", "diagnostic_mine", "{any}_macro"):
        with pytest.raises(UserError, match="expected one scorer of"):
            scorer(name)(saying(name))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Made({"x": "much"}), "expected a number for 'x' of one; got str"),
        (Made({"x": np.float32(1)}), "got float32: use float"),  # type: ignore[dict-item]
        (Made({"x": torch.ones(())}), "got Tensor: use float"),  # type: ignore[dict-item]
        (Made(layers=[{"x": "much"}]), "expected a number for 'x' of one; got str"),
        (Made(per_graph={"x": np.ones(3)}), "expected an array .4,. for 'x' of one; got .3,."),
        (Made(per_graph={"x": torch.ones(4)}), "expected an array"),  # type: ignore[dict-item]
    ],
)
def test_what_cannot_be_stored_is_refused_at_once(own_scorers: None, made: Made, words: str) -> None:
    @scorer("x")
    def one(view: View) -> Made:
        return made

    with pytest.raises(ValueError, match=words):
        stars()


def test_columns_and_layers_of_two_scorers_do_not_meet(own_scorers: None) -> None:
    @scorer("mine_layer_{k}")
    def mine(view: View) -> Made:
        return Made(layers=[{"mine": float(k), "precision": 2.0} for k in range(len(view.mask))])

    row = layered()  # without gold nobody else speaks of precision
    assert [row.figures[f"mine_layer_{k}"] for k in (0, 1)] == [0, 1]
    assert [layer["mine"] for layer in row.layers] == [0, 1]
    assert "precision_layer_0" not in row.figures  # it is not listed
    with pytest.raises(ValueError, match="expected one scorer of 'precision' of a layer"):
        layered([[1, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 0]])

    @scorer("other")
    def other(view: View) -> Made:
        return Made({"other": 0.0}, {"edges": view.graphs.num_edges_per_graph.numpy()})

    with pytest.raises(ValueError, match="expected one scorer of 'edges'; got two"):
        layered()


def test_the_mask_that_was_scored_is_kept() -> None:
    row = stars()
    assert row.mask is not None
    assert row.mask.tolist() == (attributions()["test"].scores > 0.5).tolist()
    with Judge(STARS) as judge:
        kept, dropped, gold = (x.mask for x in judge.problem_controls())
    truth = STARS.splits["test"].gold
    assert kept is not None
    assert dropped is not None
    assert truth is not None
    assert kept.all()
    assert not dropped.any()
    assert torch.equal(torch.as_tensor(gold), truth)


def test_words_decide_no_result() -> None:
    reached = modules_reached("attribench.scoring.judge")
    assert {"attribench.scoring.scorers", *(one.function.__module__ for one in scorers())} <= reached
    assert "attribench.scoring.figures" not in reached


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([1.0, 2.0, 3.0], 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5),  # Student's t of two degrees of freedom
        ([0.5, 0.5, 0.5], 0.5, 0.5),
        ([1.0, 1.0 + 1e-15, 1.0], 1.0, 1.0),  # what rounding leaves is no reason for a warning
        ([1.0, 2.0], None, None),
    ],
)
def test_the_interval_of_a_mean_by_hand(values: list[float], low: float | None, high: float | None) -> None:
    found = _spread("f1", np.array(values))
    assert (found["f1_low"], found["f1_high"]) == (low and pytest.approx(low), high and pytest.approx(high))


PLUGIN = '''
from attribench.scoring.figures import Figure
from attribench.scoring.scorers import GOLD, NO_GOLD, Made, scorer


@scorer(Figure("reached", "graphs [all] with a retained edge", "reach", higher_is_better=False, per_graph="reached"))
def reached(view):
    """Say which graphs keep any message."""
    some = view.graphs.sum_per_graph(view.mask.double().sum(0)).cpu().numpy() > 0
    return Made({"reached": float(some.mean())}, {"reached": some})


@scorer("wonder", needs=[GOLD])
def wonder(view):
    """Say something that nobody has described."""
    return {"wonder": 0.5}


@scorer("never", needs=[NO_GOLD])
def never(view):
    """Say something of other tasks."""
    return {"never": 0.5}
'''


def test_a_strangers_scorer_is_one_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, own_scorers: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("attribench.telling.console.TABLE_WIDTH", 200)
    Path("mine.py").write_text(PLUGIN)
    small = "toy.train=200,toy.validation=30,toy.test=30,toy.colours=3,toy.width=16,toy.hidden=32,toy.epochs=15"
    settings = [part for text in small.split(",") for part in ("--set", text)]
    arguments = ["run", "--methods", "integrated-gradients", "--plugin", "mine.py", *settings, "--jobs", "0"]
    code, out, _ = command(*arguments, "--out", "r", "--cache-dir", "cache")
    assert code == 0
    scores, comparison, figures, per_graph = (
        pd.read_csv(f"r/{name}.csv") for name in ("scores", "comparison", "figures", "per_graph")
    )
    assert scores.columns[-2:].tolist() == ["reached", "wonder"]
    assert "never" not in scores
    assert scores["wonder"].eq(0.5).all()
    rows = comparison.set_index("method")
    assert [rows["reached_mean"][name] for name in ("keep-all", "drop-all")] == [1, 0]
    mine = per_graph[per_graph["method"] == "integrated-gradients"]["reached"]
    assert float(rows["reached_mean"]["integrated-gradients"]) == pytest.approx(mine.mean(), rel=1e-5)
    assert [c for c in map(str, comparison) if c.endswith("_mean")][-2:] == ["reached_mean", "wonder_mean"]
    said = {row["figure"]: row for row in figures.fillna("").to_dict("records")}
    columns = ("label", "meaning", "better", "pairs_on", "needs")
    expected = ["reach", "graphs [all] with a retained edge", "lower", "graph", ""]
    assert [said["reached"][column] for column in columns] == expected
    assert [said["wonder"][column] for column in columns] == ["wonder", "", "", "cell", "gold"]
    heading = next(line for line in out.splitlines() if line.strip().startswith("method"))
    assert heading.split()[-2:] == ["reach", "wonder"]
    assert "reach: graphs [all] with a retained edge" in " ".join(out.split())
    assert " 0.50" in next(line for line in out.splitlines() if line.strip().startswith("integrated-gradients"))


def test_fits_of_one_model_are_compared_by_what_they_retain() -> None:
    """Pairs of fits of one model alone, whatever they retain of another; a partial fit is no pair's."""
    masks = {
        (0, 0): [[1, 1, 0, 0]], (0, 1): [[1, 1, 1, 0]], (0, 2): [[0, 0, 1, 0]],
        (1, 0): [[0, 0, 0, 0]], (1, 1): [[0, 0, 0, 0]],
        (2, 0): [[0, 1, 0, 0]],
    }  # fmt: skip
    ended = {(1, 1): "ok", (2, 1): "partial"}
    results: list[Any] = [
        SimpleNamespace(
            cell=Cell("t", "m", 0, model, fit),
            record=SimpleNamespace(status=ended.get((model, fit), "ok"), reason="", costs={}),
            rows=[
                Scores("m", "method", {"retained": 0.5}, mask=np.array(mask, dtype=bool)),
                Scores("c", "control", {}),
            ],
        )
        for (model, fit), mask in {**masks, (2, 1): [[0, 1]]}.items()
    ]
    told = Report(results, [], {"t": About("")}).comparison().set_index(["method", "status"])["fit_agreement"]
    assert told["m", "ok"] == pytest.approx(np.mean([2 / 3, 0 / 3, 1 / 3, 1.0]))
    assert np.isnan(told["m", "partial"])
    assert np.isnan(told["c", "ok"])
    one_fit = Report([result for result in results if result.cell.fit_seed == 0], [], {"t": About("")})
    assert one_fit.comparison()["fit_agreement"].isna().all()
