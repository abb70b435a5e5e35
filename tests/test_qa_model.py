"""Question answering: what the model reads, its two forms, its training, and the audit of its gold."""

import importlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from qa_helpers import GOLD, entry, graphs, item, wikihop
from torch import Tensor

from attribench.base.errors import UserError
from attribench.bench import Bench
from attribench.model.baseline import Baseline
from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.model.output_choice import MultipleChoice
from attribench.plugins.configs import make_config
from attribench.plugins.registry import METHODS, TASKS
from attribench.plugins.task import Problem, Split, TaskSeeds, Workshop, build_problem, without_cache

model_of: Any = importlib.import_module("attribench.tasks.qa.model")
splits_of: Any = importlib.import_module("attribench.tasks.qa.splits")
vectors_of: Any = importlib.import_module("attribench.tasks.qa.vectors")
QA: Any = TASKS["qa"]
answering: Any = importlib.import_module("attribench.tasks.qa.answering")

WORDS = vectors_of.WordVectors.load(vectors_of.DATA / vectors_of.VECTORS)
CHAIN = tuple(map(tuple, GOLD["chain"]))
HOP: dict[str, Any] = {"id": "hop", "gold": wikihop.Gold(tuple(GOLD["kinds"]), CHAIN, tuple(GOLD["edges"]))}


def bundled(count: int = 6) -> Split:
    """The first questions of the bundled development file, of several sizes."""
    items = wikihop.read_wikihop(vectors_of.DATA / "dev.json.gz")[0][:count]
    made = sorted(graphs.make_graphs(items).graphs, key=lambda graph: graph.num_nodes)
    split: Split = splits_of.make_split(made, WORDS, splits_of.Sizes.of(made), "dev")
    return split


def answerer(form: str, normalisation: str = "relation", seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    settings = {"width": 12, "dropout": 0.5, "form": form, "normalisation": normalisation, **options}
    return model_of.Answerer(WORDS.size, 4, **settings).double().eval()


def test_a_split_says_what_the_model_reads() -> None:
    made = [graphs.make_graph(item(**changes)) for changes in (HOP, {"id": "b", "answer": None, **HOP})]
    sizes = splits_of.Sizes.of(made)
    assert (sizes.tokens, sizes.choices) == (len(made[0].query), 3)
    split = splits_of.make_split(made, WORDS, splits_of.Sizes(9, 4), "some")
    batch = split.graphs
    assert split.labels.tolist() == [0, 4]  # the second is not known
    assert batch["choices"].tolist() == [[True, True, False, False]] * 2  # nobody mentions New York
    first = batch.select(torch.tensor([0]))
    names = split.extras.node["name"][: first.num_nodes]
    kabul = names.index("kabul")
    torch.testing.assert_close(first["x"][kabul], torch.from_numpy(WORDS.word("kabul")))
    assert [name for name, flag in zip(names, first["subject"].tolist(), strict=True) if flag] == ["herat", "the city"]
    assert first["candidate"][kabul] == 0
    assert first["candidate"][names.index("herat")] == -1
    assert first["query_length"].tolist() == [len(made[0].query)]
    torch.testing.assert_close(first["query"][0, -1], torch.zeros(WORDS.size))
    assert batch.edge_key[: first.num_edges].unique().numel() == first.num_edges
    assert split.gold is not None
    assert split.gold.sum(1).tolist() == [2, 2, 2]
    for k, (source, target) in enumerate((("herat", "afghanistan"), ("afghanistan",) * 2, ("afghanistan", "kabul"))):
        edge = int(split.gold[k].nonzero()[0])
        assert [names[node] for node in batch.edge_index[:, edge].tolist()] == [source, target]


def test_a_chain_of_one_edge_is_in_the_last_layer_and_an_unknown_one_leaves_no_gold() -> None:
    one = wikihop.Gold(("capital", "city"), CHAIN[:2], ("DOC-BASED",))
    short, unknown = graphs.make_graph(item(gold=one)), graphs.make_graph(item())
    gold = splits_of.gold_of([short])
    assert gold.sum(1).tolist() == [0, 0, 1]
    assert splits_of.gold_of([short, unknown]) is None


@pytest.mark.parametrize("normalisation", ["relation", "all"])
def test_both_forms_are_the_same_model(normalisation: str) -> None:
    batch = bundled().graphs.to(torch.float64)
    dense, listed = answerer("dense", normalisation), answerer("list", normalisation)
    listed.load_state_dict(dense.state_dict())
    draw = torch.Generator().manual_seed(1)
    z = torch.rand(3, batch.num_edges, generator=draw, dtype=torch.float64)
    learned = [torch.randn(12, generator=draw, dtype=torch.float64) for _ in range(3)]
    own = [Baseline.per_edge(torch.randn(batch.num_edges, 12, generator=draw, dtype=torch.float64)) for _ in range(3)]
    found = []
    for model in (dense, listed):
        model.zero_grad()
        logits = model(batch)
        logits.square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        with Gates(model) as gates:
            recording = gates.record(batch)
            gate = z.clone().requires_grad_()
            gated = [recording.forward(gate, baselines) for baselines in (None, learned, own)]
            gated[1].square().sum().backward()
        found.append([logits, *gradients, *gated, gate.grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert not torch.allclose(found[0][0], found[0][-4])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gnnexplainer", {"steps": 30}),
        ("integrated-gradients", {"steps": 20}),
        ("erasure", {}),
        ("graphmask-nonamortized", {"steps": 150, "learning_rate": 0.1, "tolerance": 0.5, "max_changed": 1.0}),
    ],
)
def test_methods_say_the_same_of_both_forms(name: str, options: dict[str, Any]) -> None:
    """From the same initial masks and draws, which are of an edge and not of a form."""
    if name == "erasure":  # two questions of few mentions
        made = [graphs.make_graph(item(**{**HOP, "id": each})) for each in "ab"]
        split = splits_of.make_split(made, WORDS, splits_of.Sizes.of(made), "some")
    else:
        split = bundled(3)
    split = replace(split, graphs=split.graphs.to(torch.float64))
    kind = METHODS[name]
    found, dense = [], answerer("dense", seed=6)  # one whose predictions need messages
    with torch.no_grad():
        dense.layer.messages.weight *= 2
    for model in (dense, dense.in_form("list")):
        subject = Problem(model, MultipleChoice(), dict.fromkeys(("train", "validation", "test"), split)).subject()
        method = kind(make_config(name, kind.Config, options), subject=subject, seed=2)
        method.fit()
        found.append(method.attribute(split.graphs))
    by_matrices, by_messages = found
    torch.testing.assert_close(by_matrices.scores, by_messages.scores, rtol=0, atol=1e-8)
    assert by_matrices.scores.unique().numel() > 1
    for part in ("hard_mask", "complete"):
        one, other = getattr(by_matrices, part), getattr(by_messages, part)
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def test_a_model_has_a_copy_in_the_other_form_and_examples_of_any_size() -> None:
    split = bundled(3)
    model = answerer("dense").float()
    forms = QA(make_config("qa", QA.Config, {})).forms(model)
    problem = Problem(model, MultipleChoice(), dict.fromkeys(("train", "validation", "test"), split))
    one = QA(make_config("qa", QA.Config, {})).example(problem, 40)
    assert (one.num_nodes, one.num_graphs) == (40, 1)
    assert one.num_edges >= 40 * 39
    assert one["edge_type"].unique().tolist() == [0, 1, 3]  # no coreference
    for batch in (split.graphs, one):
        logits = [other(batch) for other in forms.values()]
        torch.testing.assert_close(*logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(logits[0], model(batch))
    assert {other.form for other in forms.values()} == {"dense", "list"}
    bench = Bench(problem, 2, torch.device("cpu"))  # PyG's explainers reach no message of a matrix
    assert [bench.against_rivals(METHODS[name]) for name in ("gnnexplainer", "integrated-gradients")] == [[], []]


def test_a_candidate_has_the_score_of_its_best_mention() -> None:
    split = bundled(3)
    model = answerer("dense")
    batch = split.graphs.to(torch.float64)
    state = model.encode(batch)
    *_, h = model.states(batch, state)
    scores = model.readout(torch.cat([state.query[batch.batch], model.nodes(state, h)], dim=-1))[:, 0]
    logits = model(batch)
    for g in range(3):
        for c in range(logits.shape[1]):
            own = scores[(batch.batch == g) & (batch["candidate"] == c)]
            expected = own.max() if len(own) else torch.zeros((), dtype=torch.float64)
            torch.testing.assert_close(logits[g, c], expected)


def test_normalisation_divides_by_a_nodes_edges_of_the_relation_or_all() -> None:
    batch = bundled(2).graphs
    for normalisation in ("relation", "all"):
        share = model_of.shares(batch, 4, normalisation)
        place = batch.edge_index[1] * 4 + batch["edge_type"] if normalisation == "relation" else batch.edge_index[1]
        sums = torch.zeros(batch.num_nodes * 4).index_add(0, place, share)
        torch.testing.assert_close(sums[place.unique()], torch.ones(len(place.unique())))


def test_no_message_reaches_a_model_without_edges() -> None:
    batch = bundled(2).graphs.to(torch.float64)
    model = answerer("dense", connected=False)
    with Gates(model) as gates:
        recording = gates.record(batch)
        torch.testing.assert_close(recording.forward(recording.ones() * 0), recording.logits)


def problem(folder: Path, **options: Any) -> Problem:
    settings = {**QA.quick, "items": 0, "data_dir": str(folder), **options}
    task = QA(make_config("qa", QA.Config, settings))
    task.sources()
    return build_problem(task, TaskSeeds(0, 0), Workshop(torch.device("cpu"), without_cache))


def written(folder: Path, train: list[dict[str, Any]], dev: list[dict[str, Any]]) -> Path:
    for name, entries in (("train", train), ("dev", dev)):
        (folder / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def test_files_in_wikihops_format_are_read_and_development_items_halved(tmp_path: Path) -> None:
    many = [entry(id=f"item {i}") for i in range(9)]
    built = problem(written(tmp_path, many, many[:5]))
    sizes = {name: split.graphs.num_graphs for name, split in built.splits.items()}
    assert sizes == {"train": 9, "validation": 3, "test": 2}
    ids = [*built.splits["validation"].extras.graph["id"], *built.splits["test"].extras.graph["id"]]
    assert sorted(map(str, ids)) == [f"item {i}" for i in range(5)]
    assert built.gold_confirmed is None
    assert built.splits["test"].gold is None
    assert built.findings.num_layers == 3


def test_what_cannot_be_answered_is_told_and_counts_as_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = [
        entry(id="beyond", candidates=["afghanistan", "new york", "kabul"], answer="kabul"),
        entry(id="unmentioned", candidates=["kabul", "new york"], answer="new york"),
        entry(id="wrong", answer="paris"),
        entry(id="silent", candidates=["rome", "paris"], answer="rome"),
    ]
    built = problem(written(tmp_path, [entry()], [*odd, entry(id="good")]), candidates=2, explained=9)
    told = caplog.text
    assert "left out 1 with an answer that is not among the candidates (wrong)" in told
    assert "left out 1 with no candidate in any document (silent)" in told
    assert "1 candidates cut, 1 answers cut" in told
    assert "1 answers are not mentioned" in told
    splits = [built.splits[name] for name in ("validation", "test")]
    labels = {
        str(name): label
        for split in splits
        for name, label in zip(split.extras.graph["id"], split.labels.tolist(), strict=True)
    }
    assert labels == {"beyond": 2, "unmentioned": 1, "good": 0}  # 2 is no column


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        ([entry()], [entry()], "expected two items or more in"),
        ([entry(answer=None)], [entry(), entry(id="b")], "expected answers in"),
        ([entry(supports=["Nothing is here."])], [entry(), entry(id="b")], "expected items whose documents name"),
        ([entry(answer="new york")], [entry(), entry(id="b")], "expected training items whose documents mention"),
    ],
)
def test_files_without_what_is_needed_are_refused(
    tmp_path: Path, train: list[dict[str, Any]], dev: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        problem(written(tmp_path, train, dev))


def test_files_that_say_nothing_of_the_items_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = written(tmp_path, [entry()], [entry(), entry(id="b")])
    with pytest.raises(UserError, match="expected questions with a gold chain of three in every split"):
        problem(folder, chain="three")
    (folder / "chains.json").write_text(json.dumps({"other": [[[0, 0, 5]]]}))
    with pytest.raises(UserError, match="expected chains by the items' ids"):
        problem(folder, coreference_file="chains.json")
    (folder / "chains.json").write_text(json.dumps({"a": [[[0, 51, 59]]]}))
    assert problem(folder, coreference_file="chains.json").splits["train"].graphs.num_graphs == 1
    assert "train: 1 chains without a name, beside 0 that are used" in caplog.text
    (folder / "words.txt").write_text("zzz 0.5 0.25\n")
    with pytest.raises(UserError, match="none is of a training word"):
        problem(folder, vectors_file="words.txt")
    caplog.clear()
    (folder / "words.txt").write_text("kabul 0.5 0.25\n")
    assert problem(folder, vectors_file="words.txt").splits["test"].graphs["x"].shape[1] == 2
    assert "of the words of training queries and mentions have a vector" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_file": "test.json"}, "expected --data-dir, the folder of test_file"),
        ({"data_dir": "x", "train_file": "a/b.json"}, "as the name of a file in the folder"),
        ({"data_dir": "nowhere"}, r"expected a file of the data; nowhere/train\.json"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        QA(make_config("qa", QA.Config, options)).sources()


def test_batches_hold_every_graph_once_and_graphs_of_like_size() -> None:
    sizes = torch.randint(5, 50, (100,), generator=torch.Generator().manual_seed(0))
    found = answering.batches(sizes, 8, torch.Generator().manual_seed(1))
    assert torch.cat(found).sort().values.tolist() == list(range(100))
    spans = sorted((int(sizes[batch].min()), int(sizes[batch].max())) for batch in found)
    assert all(high <= low for (_, high), (low, _) in pairwise(spans))


def test_the_audit_closes_what_it_says() -> None:
    split, model = bundled(8), answerer("list").float()
    found = answering.audit(model, split)
    output, gold = MultipleChoice(), split.gold
    assert gold is not None
    lengths = split.extras.graph["chain"]
    assert isinstance(lengths, Tensor)
    kept, changed = [], []
    with Gates(model) as gates, torch.no_grad():
        for g in range(8):
            one = split.graphs.select(torch.tensor([g]))
            own = gold[:, split.graphs.edges_of(torch.tensor([g]))]
            recording = gates.record(one)

            def predicts(mask: Tensor, recording: Any = recording, one: GraphBatch = one) -> int:
                return int(output.predict(recording.forward(mask.float()), one))

            original = int(output.predict(recording.logits, one))
            kept.append(predicts(own) == original)
            if lengths[g] == 3:
                without = torch.ones_like(own)
                without[1] &= ~own[1]
                changed.append(predicts(without) != original)
    assert found["audit_kept"] == pytest.approx(sum(kept) / 8)
    assert found["audit_changed_1"] == pytest.approx(sum(changed) / len(changed))


def test_gold_is_confirmed_where_all_figures_say_so() -> None:
    figures = {"audit_kept": 0.99, "audit_kept_three": 0.96, "audit_changed_0": 0.75, "validation": 0.1}
    assert answering.is_confirmed(figures)
    for name, value in (("audit_kept_three", 0.9), ("audit_changed_0", 0.6)):
        assert not answering.is_confirmed({**figures, name: value})


def test_questions_of_one_length_are_explained_alone() -> None:
    split = bundled(8)
    for length, edges in (("one", 1), ("three", 3)):
        chosen = answering._of_length(split, length)
        chains = chosen.extras.graph["chain"]
        assert isinstance(chains, Tensor)
        assert 0 < len(chains) < 8
        assert chains.unique().tolist() == [edges]
    assert answering._of_length(split, "any") is split


@pytest.mark.slow
def test_training_beats_a_model_without_edges_by_thirty_points_on_names_that_never_occur_in_training() -> None:
    reached = {}
    for edges in ("graph", "none"):
        config = make_config("qa", QA.Config, {"edges": edges, "explained": 5, "epochs": 4})
        built = build_problem(QA(config), TaskSeeds(0, 0), Workshop(torch.device("cpu"), without_cache))
        reached[edges] = built.figures["test"]
    assert reached["graph"] >= reached["none"] + 0.3
