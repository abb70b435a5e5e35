"""Question answering: the reader of WikiHop's format, mentions and coreference, graphs."""

import gzip
import json
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from qa_helpers import GOLD, coreference, entry, graphs, item, mentions, wikihop

from attribench.base.errors import UserError


def read(path: Path, *entries: Any) -> Any:
    path.write_text(json.dumps(list(entries)), encoding="utf-8")
    return wikihop.read_wikihop(path)


def test_items_are_read(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    for name in ("dev.json", "dev.json.gz"):
        path = tmp_path / name
        content = json.dumps([entry(annotations=[["follows"]]), entry(id="b", gold=GOLD)]).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        items, left_out = wikihop.read_wikihop(path)
        assert [(x.id, x.answer, x.relation, x.subject) for x in items] == [
            ("a", 0, "capital of the country", "Herat"),
            ("b", 0, "capital of the country", "Herat"),
        ]
        assert items[0].gold is None
        assert items[1].gold.edges == ("DOC-BASED", "MATCH", "DOC-BASED")
        assert (len(left_out), left_out.report()) == (0, "")


def test_a_test_file_has_no_answers(tmp_path: Path) -> None:
    items, _ = read(tmp_path / "a.json", entry(answer=None))
    assert items[0].answer is None
    assert graphs.make_graph(items[0]).answer == -1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": "paris"}, "an answer that is not among the candidates"),
        ({"answer": None}, "no answer, where others have one"),
        ({"supports": []}, "no supports"),
        ({"supports": ["", " "]}, "no supports"),
        ({"candidates": []}, "no candidates"),
        ({"candidates": ["kabul", " "]}, "an empty candidate"),
        ({"candidates": ["kabul", "kabul"]}, "a candidate that comes twice"),
    ],
)
def test_what_cannot_be_answered_is_counted_and_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "a.json"
    wrong = [entry(id=f"wrong\n{i}", **changes) for i in range(4)]
    items, left_out = read(path, *wrong, entry())
    assert [x.id for x in items] == ["a"]
    assert len(left_out) == 4
    assert left_out.report() == f"4 with {reason} (wrong?0, wrong?1, wrong?2, ...)"
    if "answer" not in changes or changes["answer"]:  # without the last, it would be a test file
        with pytest.raises(UserError, match=f"4 with {reason}"):
            read(path, *wrong)


def test_items_without_a_mention_are_counted_and_named() -> None:
    made = graphs.make_graphs([item(), item(id="b", supports=["Herat is old."])])
    assert len(made.graphs) == 1
    assert made.left_out.report() == "1 with no candidate in any document (b)"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ("expected a WikiHop file", "No such file")),
        ("{", ("expected a WikiHop file (JSON)", "line 1")),
        ("[" * 100_000, ("expected a WikiHop file",)),
        ("{}", ("expected a list of items", "an object")),
        ("[]", ("expected at least one item", "empty")),
        ("[1]", ("expected an object", "item 1", "a number")),
        ([entry(id=None)], ("'id'", "item 1", "missing")),
        ([entry(), entry(id=7)], ("expected a text", "item 2, id", "a number")),
        ([entry(), entry()], ("expected an id for each", "items 1 and 2", "'a'")),
        ([entry(query="capital")], ("expected a relation, a blank and a subject", "('a'), query", "'capital'")),
        ([entry(query=" capital x")], ("expected a relation",)),
        ([entry(candidates="kabul")], ("expected a list of texts", "candidates", "a text")),
        ([entry(candidates=["kabul", None])], ("expected a text", "candidates 2", "null")),
        ([entry(supports=None)], ("expected a list of texts", "supports", "nothing")),
        ([entry(supports=[["x"]])], ("expected a text", "supports 1", "a list")),
        ([entry(answer=True)], ("expected a text", "answer", "a truth value")),
        ([entry(answer="\ud800")], ("expected characters", "answer")),
        ([entry(gold=[])], ("expected an object", "gold", "a list")),
        ([entry(gold=GOLD | {"chain": [[0, 1, 1]]})], ("expected document", "chain")),
        ([entry(gold=GOLD | {"chain": [[2, 0, 1]]})], ("expected document", "chain")),
        ([entry(gold=GOLD | {"chain": 1})], ("expected document", "chain")),
        ([entry(gold=GOLD | {"kinds": []})], ("expected 3 kinds", "0 kinds, 4 mentions and 3 edges")),
    ],
)
def test_what_is_not_in_the_format_is_refused(tmp_path: Path, content: Any, parts: tuple[str, ...]) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError) as error:
        wikihop.read_wikihop(path)
    for part in (*parts, str(path)):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_and_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps([entry()] * 99).encode())[:-9])
    with pytest.raises(UserError, match="expected a WikiHop file"):
        wikihop.read_wikihop(path)
    with pytest.raises(UserError, match="not a regular file"):
        wikihop.read_wikihop(tmp_path)
    monkeypatch.setattr(wikihop, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="at most 10 bytes"):
        read(tmp_path / "b.json", entry())


# mentions and coreference


def found(text: str, names: list[str], subject: str = "none") -> list[tuple[int, int, int]]:
    tokens = [mentions.tokenize(text)]
    return [(m.candidate, m.start, m.end) for m in mentions.find_mentions(names, subject, tokens)]


def test_tokens() -> None:
    tokens = mentions.tokenize("Saint-Denis's 1,200 cafés!")
    assert tokens.words == ("saint", "-", "denis", "'", "s", "1", ",", "200", "cafés", "!")
    assert tokens.spans[:3] == ((0, 5), (5, 6), (6, 11))
    # lower-cased once or twice, a name is the same: this I becomes two characters
    assert mentions.words("İnegol") == mentions.words("İnegol".lower())


def test_longer_names_come_first_and_none_overlap() -> None:
    text = "New York City is in New York; York is not. CITY of york city"
    names = ["york", "new york", "York City", "city"]
    assert found(text, names) == [(1, 0, 2), (3, 2, 3), (1, 5, 7), (0, 8, 9), (3, 12, 13), (2, 14, 16)]
    assert found("New York City", ["new york city", "new york"]) == [(0, 0, 3)]
    assert found("new yorks", ["new york"]) == []
    # of names with the same tokens, the first candidate's
    assert found("U.S. law", ["u.s.", "U. S."]) == [(0, 0, 4)]


def test_the_subject_may_be_a_candidate() -> None:
    made = mentions.find_mentions(["kabul"], "Kabul", [mentions.tokenize("Kabul")])
    assert [(m.candidate, m.subject) for m in made] == [(0, True)]
    made = mentions.find_mentions(["kabul"], "Herat", [mentions.tokenize("Herat, Kabul")])
    assert [(m.candidate, m.subject) for m in made] == [(-1, True), (0, False)]


@pytest.mark.parametrize(
    ("text", "antecedents"),
    [
        ("Ava is a city. The city is old, this city.", ["ava", "ava"]),
        ("Ava is a city of Bor, a country. The country and the city", ["bor", "ava"]),
        ("In the country of Bor lies Ava, a city. The city, the country.", ["ava", "bor"]),
        ("The city Ava and the city of Cyl: the city", ["cyl"]),
        # called nothing, it opens the document
        ("Ava is old. The city is, too.", ["ava"]),
        ("The Ava is old. The city is, too.", ["ava"]),
        ("It is said that Ava is old. The city is.", []),
        # what opens it is called something else
        ("Bor is a country. The city is far.", []),
        # only backwards, only in the same document, and not across a full stop
        ("The city is old. Ava is a city.", []),
        ("Ava is old. A city. Bor is a country. The country.", ["bor"]),
        ("Ava is a very very very very very very old city. The city", ["ava"]),
        ("It says: Ava is a very very very very very very old city. The city", []),
        ("Ava is a city. A city, cities, the cities", []),
    ],
)
def test_anaphors_by_the_rule(text: str, antecedents: list[str]) -> None:
    names = ["ava", "bor", "cyl"]
    tokens = [mentions.tokenize("Cyl is a city."), mentions.tokenize(text)]
    made = coreference.by_rule(mentions.find_mentions(names, "none", tokens), tokens)
    anaphors = [m for m in made if m.anaphor]
    assert [names[m.candidate] for m in anaphors] == antecedents
    assert all(m.document == 1 and m.end - m.start == 2 for m in anaphors)
    assert [m.place for m in made] == sorted(m.place for m in made)
    for m in anaphors:  # the antecedent is in its chain
        assert any(n.chain == m.chain and not n.anaphor and n.candidate == m.candidate for n in made)
    for m in made:
        same = [n for n in made if n.document == m.document and n.candidate == m.candidate]
        assert (m.chain >= 0) == (len(same) > 1)


def test_anaphors_from_a_file(tmp_path: Path) -> None:
    texts = ["Ava grew. It is old, the old Ava.", "He met Bor and Ava."]
    chains = {
        "a": [
            [[0, 0, 3], [0, 10, 12], [0, 21, 32]],  # Ava, It, the old Ava
            [[1, 0, 2], [1, 7, 18]],  # Bor and Ava: two names
            [[1, 0, 2]],
            [[0, 3, 4], [0, 0, 3], [7, 0, 1]],
        ]
    }
    path = tmp_path / "chains.json"
    path.write_text(json.dumps(chains), encoding="utf-8")
    read_chains = coreference.read_chains(path)
    assert read_chains == {"a": [[tuple(place) for place in chain] for chain in chains["a"]]}
    counts = Counter[str]()
    asked = item(candidates=["ava", "bor"], supports=texts)
    graph = graphs.make_graph(asked, graphs.Limits(), read_chains, counts)
    assert graph.words == (("ava",), ("it",), ("ava",), ("bor",), ("ava",))
    assert graph.candidate.tolist() == [0, 0, 0, 1, 0]
    assert graph.anaphor.tolist() == [False, True, False, False, False]
    coref = graph.adjacency()[graphs.COREF]
    assert counts["chains of several"] == counts["chains without a name"] == counts["places in no document"] == 1
    assert counts["places without a token"] == 1
    assert counts["chains"] == 2
    assert not coref[3:].any()
    # items that the file does not name have no chains
    graph = graphs.make_graph(item(), graphs.Limits(), read_chains | {"a": []}, counts)
    assert not graph.anaphor.any()


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '{"a": [1]}', '{"a": [[[0, 1]]]}', '{"a": [[[0, 1, 1]]]}', "{"])
def test_other_files_are_no_chains(tmp_path: Path, content: str) -> None:
    path = tmp_path / "chains.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="expected") as error:
        coreference.read_chains(path)
    assert str(path) in str(error.value)


# graphs


def test_a_graph_worked_out_by_hand() -> None:
    chain = ((0, 0, 1), (0, 8, 9), (1, 0, 1), (1, 5, 6))
    gold = wikihop.Gold(tuple(GOLD["kinds"]), chain, tuple(GOLD["edges"]))
    made = graphs.make_graphs([item(gold=gold)])
    graph = made.graphs[0]
    assert graph.query == ("capital", "of", "the", "country", "herat")
    assert [" ".join(words) for words in graph.words] == [
        "herat", "afghanistan", "the city", "afghanistan", "kabul", "the country",
    ]  # fmt: skip
    assert graph.candidate.tolist() == [-1, 1, -1, 1, 0, 1]
    assert graph.subject.tolist() == [True, False, True, False, False, False]
    assert graph.document.tolist() == [0, 0, 0, 1, 1, 1]
    assert (graph.num_candidates, graph.answer, graph.num_nodes) == (3, 0, 6)
    adjacency = graph.adjacency()
    match = {(1, 3), (3, 1)}
    coref = {(0, 2), (2, 0), (3, 5), (5, 3)}
    doc = {(t, s) for t in range(6) for s in range(6) if t != s and (t < 3) == (s < 3)}
    rest = {(t, s) for t in range(6) for s in range(6) if t != s} - match - coref - doc
    for number, expected in enumerate((match, doc, coref, rest)):
        assert {(t, s) for t, s in adjacency[number].nonzero().tolist()} == expected
    types = [graphs.EDGE_TYPES[i] for i in graph.edge_type[graph.gold].tolist()]
    assert types == ["DOC-BASED", "MATCH", "DOC-BASED"]
    assert graph.edge_index[:, graph.gold].T.tolist() == [[0, 1], [1, 3], [3, 4]]
    assert {name: made.counts[name] for name in graphs.EDGE_TYPES} == {
        "MATCH": 2, "DOC-BASED": 12, "COREF": 4, "COMPLEMENT": 16,
    }  # fmt: skip


def slow_edges(graph: Any) -> list[tuple[int, int, int]]:
    """Return type, target and source of all edges, pair by pair."""
    nodes = list(
        zip(graph.words, graph.document.tolist(), graph.candidate.tolist(), graph.anaphor.tolist(), strict=True)
    )
    edges = []
    for t, (words, document, candidate, anaphor) in enumerate(nodes):
        for s, (words_s, document_s, candidate_s, anaphor_s) in enumerate(nodes):
            if s == t:
                continue
            same = document == document_s
            holds = [words == words_s and not anaphor and not anaphor_s, same, same and candidate == candidate_s]
            edges += [(kind, t, s) for kind, is_so in enumerate([*holds, not any(holds)]) if is_so]
    return sorted(edges)


@pytest.mark.parametrize("number", range(5))
def test_edges_are_those_of_a_plain_loop(number: int) -> None:
    graph = graphs.make_graph(large(8, seed=number))
    edges = list(zip(graph.edge_type.tolist(), *graph.edge_index.flip(0).tolist(), strict=True))
    assert edges == slow_edges(graph)
    assert {kind for kind, _, _ in edges} == {0, 1, 2, 3}


def large(documents: int, names: int = 20, seed: int = 0) -> Any:
    draw = Random(seed)
    texts = [
        " ".join(f"Name{draw.randrange(names)} is a city and " + "word " * 10 + ". The city ." for _ in range(3))
        for _ in range(documents)
    ]
    return item(candidates=[f"name{i}" for i in range(names)], supports=texts, query="in name0 and name1", answer=3)


def test_twenty_candidates_and_sixty_documents() -> None:
    graph = graphs.make_graph(large(60))
    assert graph.num_nodes == 360
    assert graph.num_candidates == 20
    adjacency = graph.adjacency()
    pairs = 360 * 359
    assert adjacency[:3].any(0).sum() + adjacency[3].sum() == pairs
    assert (adjacency[:3].any(0) & adjacency[3]).sum() == 0
    assert torch.equal(adjacency, adjacency.transpose(1, 2))


def test_limits_cut_and_count() -> None:
    start = time.perf_counter()
    made = graphs.make_graphs([large(200)])
    assert time.perf_counter() - start < 5
    assert made.graphs[0].num_nodes == 500
    assert made.graphs[0].edge_index.shape[1] >= 500 * 499
    assert made.counts["nodes cut"] == 700
    limits = graphs.Limits(nodes=10, query=2, candidates=3)
    made = graphs.make_graphs([large(60)], limits)
    graph = made.graphs[0]
    assert (graph.num_nodes, graph.query, graph.num_candidates) == (10, ("in", "name0"), 3)
    assert (graph.answer, int(graph.candidate.max())) == (-1, 2)
    assert (made.counts["candidates cut"], made.counts["answers cut"], made.counts["query tokens cut"]) == (17, 1, 2)
    made = graphs.make_graphs([item(supports=["Afghanistan"])])
    assert made.counts["answers not mentioned"] == 1
    made = graphs.make_graphs([item()], graphs.Limits(nodes=1))
    assert made.graphs == []  # the one node is the subject's
    assert made.left_out.report() == "1 with no candidate in any document (a)"
    gold = wikihop.Gold((), ((0, 0, 1), (0, 8, 9), (1, 0, 1)), ("DOC-BASED", "MATCH"))
    made = graphs.make_graphs([item(gold=gold)], graphs.Limits(nodes=2))
    assert (made.counts["gold chains cut"], made.graphs[0].gold) == (1, None)
