"""Semantic role labelling: graphs from sentences, the model against plain loops, and its training."""

import importlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_helpers import Command
from torch import Tensor

from attribench import bench
from attribench.base.errors import UserError
from attribench.base.reading import checksums
from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.plugins.configs import make_config
from attribench.plugins.registry import METHODS, TASKS
from attribench.plugins.task import TaskSeeds, Workshop, build_problem, without_cache

conll: Any = importlib.import_module("attribench.tasks.srl.conll")
graphs_of: Any = importlib.import_module("attribench.tasks.srl.graphs")
model_of: Any = importlib.import_module("attribench.tasks.srl.model")
TASKS["srl-gnn"]
labelling: Any = importlib.import_module("attribench.tasks.srl.labelling")
Vocabulary, make_split = graphs_of.Vocabulary, graphs_of.make_split
RoleLabeller, RoleScorer, SyntacticConv = model_of.RoleLabeller, model_of.RoleScorer, model_of.SyntacticConv


def sentence(text: str) -> Any:
    """Make a sentence from rows of FORM HEAD DEPREL and, for every predicate, a role; predicates have a star."""
    rows = [line.split() for line in text.strip().splitlines()]
    form = [row[0].strip("*") for row in rows]
    predicates = [i for i, row in enumerate(rows) if row[0].endswith("*")]
    head, deprel = [int(row[1]) for row in rows], [row[2] for row in rows]
    return conll.Sentence(
        form=form, lemma=[x.lower() for x in form], plemma=form, pos=[x[0] for x in form], ppos=form, feat=form,
        pfeat=form, head=head, phead=None, deprel=deprel, pdeprel=deprel, predicates=predicates,
        pred=[f"{form[i]}.01" for i in predicates],
        roles=[[row[3 + k] for row in rows] for k in range(len(predicates))],
    )  # fmt: skip


DOGS = sentence("""
Dogs  2 nsubj A0 _
chase* 0 root  _  _
big   4 amod  _  AM
cats* 2 obj   A1 _
""")
SILENCE = sentence("""
Silence 0 root
. 1 punct
""")
CATS = sentence("""
Cats  2 nsubj A0
sleep* 0 root _
""")
TRAIN = [DOGS, SILENCE, CATS]
VOCABULARY = Vocabulary.of(TRAIN, ["cats", "dogs", "unseen"], 1)


def test_a_graph_per_predicate() -> None:
    split = make_split(TRAIN, VOCABULARY, "train")
    graphs = split.graphs
    assert (graphs.num_graphs, graphs.num_nodes, graphs.num_edges) == (3, 4 + 4 + 2, 6 + 6 + 2)
    assert graphs["sentence"].tolist() == [0, 0, 2]
    assert graphs["position"].tolist() == [1, 3, 1]
    assert graphs["flag"].nonzero()[:, 0].tolist() == [1, 4 + 3, 8 + 1]
    tags = list(VOCABULARY.tags)
    assert [tags[i - 1] for i in graphs["tag"].tolist()] == [*"Dcbc", *"Dcbc", *"Cs"]
    assert graphs["word"].tolist() == [2, 0, 0, 1, 2, 0, 0, 1, 1, 0]
    names = ["O", *VOCABULARY.roles]
    assert [names[i] for i in split.labels.tolist()] == ["A0", "O", "O", "A1", "O", "O", "AM", "O", "A0", "O"]
    assert len(set(graphs.graph_key.tolist())) == 3


def test_an_arc_is_a_message_each_way() -> None:
    graphs = make_split([CATS], VOCABULARY, "x").graphs
    assert graphs.edge_index.tolist() == [[1, 0], [0, 1]]
    assert graphs["direction"].tolist() == [0, 1]
    names = VOCABULARY.edge_types()
    assert [names[i] for i in graphs["edge_type"].tolist()] == ["nsubj along", "nsubj against"]


def test_what_was_not_seen_in_training_has_number_0() -> None:
    other = sentence("Birds 2 strange NEW\nsing* 0 root _")
    split = make_split([other], VOCABULARY, "x")
    assert split.graphs["known"].tolist() == [0, 0]
    assert split.graphs["lemma"].tolist() == [0]
    assert split.graphs["edge_type"].tolist() == [0, 1]
    assert split.labels.tolist() == [len(VOCABULARY.roles) + 1, 0]  # missed by every model, and counted


def test_predicted_trees_are_read_where_the_vocabulary_is_of_them() -> None:
    predicted = replace(CATS, phead=[0, 1], pdeprel=["root", "obj"])
    assert torch.equal(make_split([predicted], VOCABULARY, "x").graphs.edge_index, torch.tensor([[1, 0], [0, 1]]))
    graphs = make_split([predicted], replace(VOCABULARY, columns=graphs_of.Columns(trees="predicted")), "x").graphs
    assert graphs.edge_index.tolist() == [[0, 1], [1, 0]]
    assert [VOCABULARY.edge_types()[i] for i in graphs["edge_type"].tolist()] == ["obj along", "obj against"]


def test_random_heads_are_other_tokens_of_the_sentence() -> None:
    plain, shuffled = (make_split(TRAIN * 200, VOCABULARY, "x", shuffle).graphs for shuffle in (False, True))
    assert torch.equal(plain.num_edges_per_graph, shuffled.num_edges_per_graph)
    dogs = shuffled.num_nodes_per_graph == 4
    for graphs in (plain, shuffled):
        assert torch.equal(graphs.batch[graphs.edge_index[0]], graphs.edge_graph)
        assert torch.equal(graphs.batch[graphs.edge_index[1]], graphs.edge_graph)
        assert (graphs.edge_index[0] != graphs.edge_index[1]).all()
        types = graphs["edge_type"][dogs[graphs.edge_graph]].view(-1, 6).sort(1).values
        assert (types == types[0]).all()  # the relations are the sentence's
    four = shuffled.select(dogs.nonzero()[:, 0])
    along = four.edge_index[:, four["direction"] == 0] % 4
    heads = torch.bincount(4 * along[1] + along[0], minlength=16).view(4, 4).double()
    assert heads[1].sum() == 0  # the root stays one
    for dependent in (0, 2, 3):
        others = [h for h in range(4) if h != dependent]
        assert (heads[dependent, others] / heads[dependent].sum()).tolist() == pytest.approx([1 / 3] * 3, abs=0.1)
    kinds = four["edge_type"][four["direction"] == 0].view(-1, 3)
    assert all(len(kinds[:, k].unique()) == 3 for k in range(3))


def labeller(**options: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = dict(width=8, trained=3, flag=2, recurrent=0, layers=2, dropout=0.5) | options
    sizes = (len(VOCABULARY.known) + 1, len(VOCABULARY.edge_types()), len(VOCABULARY.lemmas) + 1, 4)
    return RoleLabeller(torch.randn(4, 5), *sizes, **settings).double().eval()


GRAPHS = make_split(TRAIN, VOCABULARY, "train").graphs.to(torch.float64)


@pytest.mark.parametrize("connected", [True, False])
def test_a_layer_is_a_sum_over_gated_arcs_and_itself(connected: bool) -> None:
    torch.manual_seed(1)
    layer = SyntacticConv(4, len(VOCABULARY.edge_types()), connected).double()
    torch.nn.init.normal_(layer.bias.weight)
    torch.nn.init.normal_(layer.gate.bias.weight)
    x = torch.randn(GRAPHS.num_nodes, 4, dtype=torch.float64)
    expected = layer.own_gate(x).sigmoid() * layer.own(x)
    for u, v, kind, way in zip(*GRAPHS.edge_index.tolist(), GRAPHS["edge_type"], GRAPHS["direction"], strict=True):
        gate = torch.sigmoid(layer.gate.weight.weight[way] @ x[u] + layer.gate.bias.weight[kind, 0])
        message = layer.weight.weight[4 * int(way) : 4 * int(way) + 4] @ x[u] + layer.bias.weight[kind]
        expected[v] = expected[v] + (gate * message if connected else 0)
    actual = layer(x, GRAPHS.edge_index, layer.transform(x, GRAPHS))
    torch.testing.assert_close(actual, expected.relu())


@pytest.mark.parametrize("block", [1, 3, 16])
def test_a_role_is_scored_for_token_predicate_and_lemma(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_of, "BLOCK", block)
    graphs = GRAPHS
    torch.manual_seed(2)
    scorer = RoleScorer(3, len(VOCABULARY.lemmas) + 1, 4, embedding=5).double()
    state = torch.randn(graphs.num_nodes, 3, dtype=torch.float64)
    expected = torch.zeros(graphs.num_nodes, 4, dtype=torch.float64)
    for token, graph in enumerate(graphs.batch.tolist()):
        predicate = int(graphs.node_ptr[graph] + graphs["position"][graph])
        for role in range(4):
            q = torch.cat([scorer.lemma.weight[graphs["lemma"][graph]], scorer.role.weight[role]])
            expected[token, role] = torch.cat([state[token], state[predicate]]) @ scorer.mix(q).relu()
    torch.testing.assert_close(scorer(state, scorer.prepare(graphs), graphs), expected)


def test_the_recurrent_layer_reads_each_sentence_alone() -> None:
    model = labeller(recurrent=2, layers=1)
    together = model.embed(GRAPHS)
    for g in range(GRAPHS.num_graphs):
        alone = model.embed(GRAPHS.select(torch.tensor([g])))
        torch.testing.assert_close(alone, together[GRAPHS.batch == g])


@pytest.mark.parametrize(("name", "options"), [("tag", {"num_tags": 9}), ("lemma", {"lemma": True})])
def test_an_optional_input_changes_what_is_read(name: str, options: dict[str, Any]) -> None:
    model, plain = labeller(layers=1, **options), labeller(layers=1)
    with_it = sum(p.numel() for p in model.parameters()) > sum(p.numel() for p in plain.parameters())
    assert with_it
    other = {key: (value + 1) % 2 for key, value in GRAPHS.node.items() if key == name}
    changed = replace(GRAPHS, node={**GRAPHS.node, **other})
    if name == "lemma":
        changed = replace(GRAPHS, graph={**GRAPHS.graph, "lemma": (GRAPHS["lemma"] + 1) % 2})
    differs = (model.embed(changed) != model.embed(GRAPHS)).any(1)
    assert torch.equal(plain.embed(changed), plain.embed(GRAPHS))
    assert torch.equal(differs, GRAPHS["flag"] > 0 if name == "lemma" else torch.ones_like(differs))


def without_edges(graphs: GraphBatch) -> GraphBatch:
    return graphs.keep_edges(torch.zeros(graphs.num_edges, dtype=torch.bool))


@pytest.mark.parametrize("recurrent", [0, 1])
def test_a_model_without_edges_is_the_same_whatever_the_tree(recurrent: int) -> None:
    alone, connected = (labeller(connected=connected, recurrent=recurrent) for connected in (False, True))
    torch.testing.assert_close(alone(GRAPHS), alone(without_edges(GRAPHS)))
    assert sum(p.numel() for p in alone.parameters()) == sum(p.numel() for p in connected.parameters())
    assert not torch.allclose(connected(GRAPHS), connected(without_edges(GRAPHS)))


@pytest.mark.parametrize("recurrent", [0, 1])
def test_closed_gates_leave_what_a_token_says_to_itself(recurrent: int) -> None:
    model = labeller(recurrent=recurrent)
    with Gates(model) as gates, torch.no_grad():
        recording = gates.record(GRAPHS)
        closed = recording.forward(recording.ones() * 0)
        own: Tensor | None = recording.own_gates
    torch.testing.assert_close(closed, model(without_edges(GRAPHS)))
    assert own is not None
    assert own.shape == (2, GRAPHS.num_edges)
    assert ((own > 0) & (own < 1)).all()


def test_batches_are_of_like_size_and_hold_every_graph_once() -> None:
    sizes = torch.randint(3, 60, (500,), generator=torch.Generator().manual_seed(0))
    batches = labelling.bucketed(sizes, 300, torch.Generator().manual_seed(1))
    assert sorted(torch.cat(batches).tolist()) == list(range(500))
    spread = [int(sizes[batch].max() - sizes[batch].min()) for batch in batches]
    tokens = [int(sizes[batch].sum()) for batch in batches]
    assert max(spread) <= 8
    assert max(tokens) <= 300 + 60
    assert sum(t >= 240 for t in tokens) >= len(tokens) - 1
    order = [int(sizes[batch].min()) for batch in batches]
    assert order != sorted(order)
    again = labelling.bucketed(sizes, 300, torch.Generator().manual_seed(1))
    assert all(torch.equal(x, y) for x, y in zip(batches, again, strict=True))


def test_a_sentence_longer_than_a_batch_is_a_batch() -> None:
    batches = labelling.bucketed(torch.tensor([5, 200, 6]), 50, torch.Generator().manual_seed(0))
    assert sorted(sorted(batch.tolist()) for batch in batches) == [[0, 2], [1]]


def test_f1_is_over_arguments() -> None:
    split = make_split(TRAIN, VOCABULARY, "train")
    roles = VOCABULARY.role_names()
    guess = split.labels.clone()
    guess[3] = 0  # one of four arguments is missed, and
    guess[1] = roles.index("AM")  # one is invented

    class Guess(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.done = 0

        def forward(self, graphs: GraphBatch) -> Tensor:
            part = guess[self.done : self.done + graphs.num_nodes]
            self.done += graphs.num_nodes
            return torch.nn.functional.one_hot(part, len(roles)).double()

    assert labelling.f1(Guess(), split) == pytest.approx(2 * 3 / (4 + 4))
    assert labelling.f1(Guess(), split, max_edges=6) == pytest.approx(2 * 3 / (4 + 4))


def test_lookups_by_hand() -> None:
    other = sentence("Old 2 amod AM\nbirds 3 nsubj A0\nsing* 0 root _")
    # By relation: "birds" is found as a nsubj of the predicate, "Old" is one arc too far. By offset and tag ("b", "O"
    # stand for tags of their own) nothing is known.
    figures = labelling.lookups(TRAIN, [other])
    assert figures == {"lookup_offset_and_tag": 0.0, "lookup_relation": pytest.approx(2 * 1 / (1 + 2))}
    assert labelling.lookups([CATS], [CATS]) == {"lookup_offset_and_tag": 1.0, "lookup_relation": 1.0}


def write(folder: Path, count: int = 12) -> None:
    for name in ("train.conll09", "dev.conll09", "test.conll09"):
        conll.write_conll([DOGS, SILENCE, CATS] * count, folder / name)


OWN = {
    "train_file": "train.conll09", "validation_file": "dev.conll09", "test_file": "test.conll09",
    "width": 8, "epochs": 3, "explained": 10, "batch_tokens": 30,
}  # fmt: skip


def built(folder: Path, name: str = "srl-gnn", **options: Any) -> Any:
    kind = TASKS[name]
    task = kind(make_config(name, kind.Config, {**OWN, "data_dir": str(folder), **options}))
    return build_problem(task, TaskSeeds(0, 0), Workshop(torch.device("cpu"), without_cache))


@pytest.mark.parametrize("name", ["srl-gnn", "srl-lstm"])
def test_a_folder_of_data_of_ones_own(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    problem = built(tmp_path, name)
    assert problem.splits["train"].graphs.num_graphs == 36
    assert problem.splits["test"].graphs.num_graphs == 10
    assert problem.edge_types[:4] == ("? along", "? against", "nsubj along", "nsubj against")
    assert set(problem.figures) == {
        "epochs", "best_epoch", "validation", "test", "lookup_offset_and_tag", "lookup_relation",
        "predicted_trees", "predicted_tags", "predicted_lemmas",
    }  # fmt: skip
    assert problem.figures["epochs"] == 3
    assert problem.figures["lookup_relation"] > 0.8


def test_predicates_that_are_explained_are_a_fixed_sample(tmp_path: Path) -> None:
    write(tmp_path)
    kind = TASKS["srl-gnn"]
    task = kind(make_config("srl-gnn", kind.Config, {**OWN, "data_dir": str(tmp_path), "epochs": 1}))
    workshop = Workshop(torch.device("cpu"), without_cache)
    first, other = (build_problem(task, TaskSeeds(seed, 0), workshop).splits for seed in (0, 1))
    places = {}
    for name, file in (("validation", "dev.conll09"), ("test", "test.conll09")):
        assert torch.equal(first[name].graphs.graph_key, other[name].graphs.graph_key)
        everything = graphs_of.make_split(labelling.load(tmp_path / file, "x"), VOCABULARY, name)
        places[name] = torch.isin(everything.graphs.graph_key, first[name].graphs.graph_key).nonzero()[:, 0].tolist()
        assert len(places[name]) == 10
    assert places["validation"] != places["test"]


def test_training_predicates_are_a_sample_and_nothing_else_is_known(tmp_path: Path) -> None:
    rare = [sentence(f"Bird{i} 2 nsubj A0\nsings* 0 root _") for i in range(60)]
    conll.write_conll(rare, tmp_path / "train.conll09")
    for name in ("dev", "test"):
        conll.write_conll([DOGS, CATS], tmp_path / f"{name}.conll09")
    sample = labelling._sample(rare * 2, 50, 0)
    assert len(sample) == 50
    assert [s.form[0] for s in sample] == [s.form[0] for s in labelling._sample(rare * 2, 50, 0)]
    assert [s.form[0] for s in sample] != [s.form[0] for s in labelling._sample(rare * 2, 50, 1)]
    (one,) = labelling._sample([DOGS], 1, 0)
    assert (len(one.predicates), len(one.pred), len(one.roles)) == (1, 1, 1)
    assert labelling._sample(rare, 0, 0) == labelling._sample(rare, 60, 0) == rare
    model = built(tmp_path, predicates=7).model
    assert model.known.num_embeddings == 2  # "sings", and all that is unknown


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train.conll09", "1\tA\tb\n\n", r"train.conll09: line 1"),
        ("train.conll09", "", "train.conll09"),
        ("glove.txt", "the 0.1 many\n", r"expected a number; .*glove.txt: line 1: got 'many'"),
        ("glove.txt", "zzz 0.1 0.2\n", r"expected vectors of the words; .*glove.txt: none is of a training word"),
        (
            "train.conll09",
            "1\tHush\t_\t_\t_\t_\t_\t_\t0\t_\troot\t_\t_\t_\n\n",
            r"expected predicates \(FILLPRED Y\) in .*train.conll09",
        ),
    ],
)
def test_a_bad_file_is_one_line_on_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    file: str,
    text: str,
    message: str,
) -> None:
    write(tmp_path, 1)
    conll.write_conll([sentence("the* 0 root _")], tmp_path / "dev.conll09")
    (tmp_path / "glove.txt").write_text("the 0.1 0.2\n")
    (tmp_path / file).write_text(text)
    files = [
        word for name in ("train", "validation", "test") for word in ("--set", f"srl.{name}_file={OWN[f'{name}_file']}")
    ]
    files += ["--set", "srl.vectors_file=glove.txt"]
    arguments = ["run", "--task", "srl-gnn", "--methods", "gate-values", "--data-dir", str(tmp_path), *files]
    monkeypatch.chdir(tmp_path)
    code, _, said = command(*arguments, "--jobs", "0", "--out", "r")
    assert code == 2
    (line,) = said.splitlines()
    assert re.search(message, line)
    assert not (tmp_path / "r" / "cells").exists()


def test_the_papers_profile_has_the_sizes_of_the_authors_settings(tmp_path: Path) -> None:
    write(tmp_path, 2)
    model = built(tmp_path, "srl-lstm", profile="paper", width=None, epochs=1).model
    assert (model.lstm.hidden_size, model.lstm.num_layers, model.lstm.input_size) == (512, 3, 50 + 100 + 16 + 16 + 100)
    assert model.scorer.mix.weight.shape == (2 * 1024, 2 * 128)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "dev.conll09").unlink()
    with pytest.raises(UserError, match=r"dev.conll09: No such file or directory: check --data-dir"):
        built(tmp_path)


def test_few_words_with_vectors_are_worth_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path)
    kind = TASKS["srl-gnn"]
    words = sorted({form.lower() for s in (DOGS, SILENCE, CATS) for form in s.form})
    for known in ([DOGS.form[0].lower()], words):
        caplog.clear()
        (tmp_path / "v.txt").write_text("".join(f"{word} 0.1 0.2\n" for word in known))
        config = make_config("srl-gnn", kind.Config, {**OWN, "data_dir": str(tmp_path), "vectors_file": "v.txt"})
        kind(config).sources()
        assert ("of the training tokens have a word vector" in caplog.text) == (known != words)


def test_a_pipe_is_no_file_of_the_data(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "dev.conll09").unlink()
    os.mkfifo(tmp_path / "dev.conll09")
    with pytest.raises(UserError, match=r"dev.conll09: not a regular file"):
        built(tmp_path)


def test_other_data_is_another_problem(tmp_path: Path) -> None:
    write(tmp_path)
    task = TASKS["srl-gnn"](make_config("srl-gnn", TASKS["srl-gnn"].Config, {**OWN, "data_dir": str(tmp_path)}))
    before = checksums(task.sources())
    write(tmp_path, 13)
    after = checksums(task.sources())
    assert {name for name in after if after[name] != before[name]} == {"train", "validation", "test"}


def test_bench_explains_as_many_predicates_as_it_is_told(tmp_path: Path) -> None:
    write(tmp_path)
    options = ",".join(
        f"{name}={value}" for name, value in {**OWN, "data_dir": tmp_path}.items() if name != "explained"
    )
    name = f"srl-gnn[{options}]"
    _, problem = bench._problem(name, torch.device("cpu"), 30)
    assert bench._how_many(name, problem, 3) == bench._how_many(name, problem, None) == 3
    assert problem.splits["test"].graphs.num_graphs == 30
    assert bench.Bench(problem, 3, torch.device("cpu")).against_rivals(METHODS["gnnexplainer"]) == []  # needs x
    _, problem = bench._problem(name, torch.device("cpu"), 40)
    with pytest.raises(UserError, match=r"expected 40 test graphs, 10 times --graphs; .* has 36: ask for fewer"):
        bench._how_many(name, problem, 4)


def long_sentence(tokens: int, predicates: int) -> Any:
    """Return a sentence whose every fifth token is a predicate with the next token as its argument."""
    places = [5 * i for i in range(predicates)]
    rows = [
        f"{'of' if i % 2 else 'the'}{'*' if i in places else ''} {i} {'root' if i == 0 else f'r{i % 9}'} "
        + " ".join("A0" if i == p + 1 else "_" for p in places)
        for i in range(tokens)
    ]
    return sentence("\n".join(rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["srl-gnn", "srl-lstm"])
def test_long_sentences_with_many_predicates_fit_in_eight_gibibytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """540 predicates of sentences of 160 tokens with 27 predicates each, in one batch."""
    long = long_sentence(160, 27)
    for split, count in (("train", 4), ("dev", 2), ("test", 20)):
        conll.write_conll([long] * count, tmp_path / f"{split}.conll09")
    problem = built(tmp_path, name, width=None, epochs=1, explained=540)
    sizes = problem.splits["test"].graphs.num_nodes_per_graph
    assert (len(sizes), set(sizes.tolist())) == (540, {160})

    def once(_: Any, *actions: Any, repeats: int) -> list[float]:
        for action in actions:
            action()
        return [1.0] * len(actions)

    monkeypatch.setattr(bench.Bench, "seconds", once)
    monkeypatch.setattr(METHODS["gnnexplainer"], "steps_option", None)  # every step needs the same memory:
    monkeypatch.setattr(METHODS["gnnexplainer"], "quick", {"steps": 10})  # ten would show one that keeps some of it
    measure = bench.Bench(problem, 54, torch.device("cpu"))
    for method in ("graphmask", "gnnexplainer") if name == "srl-gnn" else ("graphmask",):
        (row,) = measure.growth(METHODS[method])
        assert 100 < (row.peak_mib or 0) < 8 * 1024, method
