"""The bundled sentences: rules for roles on small trees, the script that rebuilds them, their counts, their vectors."""

import gzip
import importlib
import json
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attribench.base.arrays import read_arrays, write_arrays
from attribench.base.errors import UserError

conll: Any = importlib.import_module("attribench.tasks.srl.conll")
glove: Any = importlib.import_module("attribench.tasks.srl.glove")
roles: Any = importlib.import_module("attribench.tasks.srl.roles")
trees: Any = importlib.import_module("attribench.tasks.srl.trees")
uds: Any = importlib.import_module("attribench.tasks.srl.uds")

DATA = Path(conll.__file__).parent / "data"


def tree(text: str) -> Any:
    """Return a tree from words such as ``gave/give/VBD/0/root``: form, lemma, tag, head (from 1) and relation."""
    rows = [word.split("/") for word in text.split()]
    forms, lemmas, tags, heads, relations = (list(column) for column in zip(*rows, strict=True))
    return trees.Tree(forms, lemmas, tags, [int(head) - 1 for head in heads], relations)


def found(text: str, predicate: int) -> dict[str, str]:
    """Return the roles of the words with a star, of the predicate with this number."""
    words = text.split()
    starred = [i for i, word in enumerate(words) if word.startswith("*")]
    made = tree(text.replace("*", ""))
    return {made.forms[i]: roles.role(made, predicate - 1, i) for i in starred}


ACTIVE = "*Ann/Ann/NNP/2/nsubj sent/send/VBD/0/root *Bob/Bob/NNP/2/iobj *books/book/NNS/2/dobj"
TOLD = "*I/I/PRP/3/nsubjpass was/be/VBD/3/auxpass told/tell/VBN/0/root *leave/leave/VB/3/xcomp"
PASSIVE = (
    "*Books/book/NNS/3/nsubjpass were/be/VBD/3/auxpass sent/send/VBN/0/root by/by/IN/5/case *Ann/Ann/NNP/3/nmod "
    "to/to/TO/7/case *Bob/Bob/NNP/3/nmod"
)


@pytest.mark.parametrize(
    ("text", "predicate", "expected"),
    [
        (ACTIVE, 2, {"Ann": "A0", "Bob": "A2", "books": "A1"}),
        (PASSIVE, 3, {"Books": "A1", "Ann": "A0", "Bob": "A2"}),
        (TOLD, 3, {"I": "A2", "leave": "AC"}),
        (
            "*He/he/PRP/3/nsubjpass was/be/VBD/3/auxpass given/give/VBN/0/root *books/book/NNS/3/dobj",
            3,
            {"He": "A2", "books": "A1"},
        ),
        (
            "*She/she/PRP/2/nsubj wants/want/VBZ/0/root to/to/TO/4/mark *sing/sing/VB/2/xcomp",
            2,
            {"She": "A0", "sing": "AC"},
        ),
        ("*He/he/PRP/3/nsubj is/be/VBZ/3/cop afraid/afraid/JJ/0/root of/of/IN/5/case *dogs/dog/NNS/3/nmod", 3,
         {"He": "A1", "dogs": "A2"}),
        ("*It/it/PRP/2/nsubj happened/happen/VBD/0/root", 2, {"It": "A1"}),
        ("*Doors/door/NNS/2/nsubj opened/open/VBD/0/root", 2, {"Doors": "A1"}),
        ("*We/we/PRP/2/nsubj opened/open/VBD/0/root *doors/door/NNS/2/dobj", 2, {"We": "A0", "doors": "A1"}),
        ("look/look/VB/0/root at/at/IN/3/case *me/I/PRP/1/nmod", 1, {"me": "A1"}),
    ],
)  # fmt: skip
def test_dependents(text: str, predicate: int, expected: dict[str, str]) -> None:
    assert found(text, predicate) == expected


def test_there_is() -> None:
    plan = "There/there/EX/2/expl is/be/VBZ/0/root a/a/DT/4/det *plan/plan/NN/2/nsubj"
    assert found(plan, 2) == {"plan": "A1"}
    seems = "There/there/EX/2/expl remain/remain/VBP/0/root *doubts/doubt/NNS/2/nsubj"
    assert found(seems, 2) == {"doubts": "A1"}
    walk = "There/there/EX/2/expl walk/walk/VBP/0/root *ghosts/ghost/NNS/2/nsubj"
    assert found(walk, 2) == {"ghosts": "A1"}
    assert found(walk.replace("/expl", "/advmod"), 2) == {"ghosts": "A0"}


@pytest.mark.parametrize("tag", ["VBN", "VBD"])
def test_passives_without_auxiliary(tag: str) -> None:
    posted = f"Posted/post/{tag}/0/root by/by/IN/3/case *Ann/Ann/NNP/1/nmod on/on/IN/5/case *Friday/Friday/NNP/1/nmod"
    assert found(posted, 1) == {"Ann": "A0", "Friday": "AM-TMP"}
    by_friday = f"Posted/post/{tag}/0/root by/by/IN/3/case *Friday/Friday/NNP/1/nmod"
    assert found(by_friday, 1) == {"Friday": "AM-TMP"}
    stopped = "*She/she/PRP/2/nsubj stopped/stop/VBD/0/root by/by/IN/4/case *Ann/Ann/NNP/2/nmod"
    assert found(stopped, 2) == {"She": "A0", "Ann": "AM-LOC"}


def test_participles_after_have_are_active() -> None:
    shared = (
        "*She/she/PRP/3/nsubj has/have/VBZ/3/aux seen/see/VBN/0/root and/and/CC/3/cc read/read/VBN/3/conj "
        "*books/book/NNS/3/dobj"
    )
    assert found(shared, 3) == found(shared, 5) == {"She": "A0", "books": "A1"}
    passive = shared.replace("has/have/VBZ/3/aux", "was/be/VBD/3/auxpass").replace("/nsubj ", "/nsubjpass ")
    assert found(passive, 3)["She"] == found(passive, 5)["She"] == "A1"
    worn = "with/with/IN/3/mark *forces/force/NNS/3/nsubj worn/wear/VBN/0/advcl down/down/RP/3/compound:prt"
    assert found(worn, 3) == {"forces": "A1"}
    done = "Done/do/VBN/0/root *homework/homework/NN/1/dobj by/by/IN/4/case *hand/hand/NN/1/nmod"
    assert found(done, 1) == {"homework": "A1", "hand": "AM-MNR"}


@pytest.mark.parametrize(
    ("text", "predicate", "expected"),
    [
        ("*dogs/dog/NNS/0/root that/that/WDT/3/nsubj bite/bite/VBP/1/acl:relcl *cats/cat/NNS/3/dobj", 3,
         {"dogs": "A0", "cats": "A1"}),
        ("*dogs/dog/NNS/0/root that/that/WDT/4/dobj *we/we/PRP/4/nsubj saw/see/VBD/1/acl:relcl", 4,
         {"dogs": "A1", "we": "A0"}),
        ("*dogs/dog/NNS/0/root *we/we/PRP/3/nsubj saw/see/VBD/1/acl:relcl", 3, {"dogs": "A1", "we": "A0"}),
        ("*dogs/dog/NNS/0/root that/that/WDT/4/nsubjpass were/be/VBD/4/auxpass seen/see/VBN/1/acl:relcl", 4,
         {"dogs": "A1"}),
        ("*man/man/NN/0/root to/to/IN/3/case whom/who/WP/5/nmod *we/we/PRP/5/nsubj sent/send/VBD/1/acl:relcl "
         "*it/it/PRP/5/dobj", 5, {"man": "A2", "we": "A0", "it": "A1"}),
        ("*house/house/NN/0/root *we/we/PRP/3/nsubj live/live/VBP/1/acl:relcl in/in/IN/3/nmod", 3,
         {"house": "AM-LOC", "we": "A0"}),
        ("*day/day/NN/0/root *we/we/PRP/3/nsubj met/meet/VBD/1/acl:relcl *her/she/PRP/3/dobj", 3,
         {"day": "AM-TMP", "we": "A0", "her": "A1"}),
        ("*house/house/NN/0/root where/where/WRB/4/advmod *we/we/PRP/4/nsubj met/meet/VBD/1/acl:relcl", 4,
         {"house": "AM-LOC", "we": "A0"}),
        ("*way/way/NN/0/root *we/we/PRP/3/nsubj met/meet/VBD/1/acl:relcl", 3, {"way": "AM-MNR", "we": "A0"}),
        ("*cars/car/NNS/0/root made/make/VBN/1/acl in/in/IN/4/case *Japan/Japan/NNP/2/nmod", 2,
         {"cars": "A1", "Japan": "AM-LOC"}),
        ("*men/man/NNS/0/root making/make/VBG/1/acl *cars/car/NNS/2/dobj", 2, {"men": "A0", "cars": "A1"}),
        ("*things/thing/NNS/0/root to/to/TO/3/mark do/do/VB/1/acl", 3, {"things": "A1"}),
        ("*ability/ability/NN/0/root to/to/TO/3/mark go/go/VB/1/acl", 3, {"ability": "AM"}),
    ],
)  # fmt: skip
def test_clauses_behind_their_noun(text: str, predicate: int, expected: dict[str, str]) -> None:
    assert found(text, predicate) == expected


def test_control() -> None:
    wants = "*She/she/PRP/2/nsubj wants/want/VBZ/0/root to/to/TO/4/mark sing/sing/VB/2/xcomp"
    assert found(wants, 4) == {"She": "A0"}
    seen = "*She/she/PRP/2/nsubj wants/want/VBZ/0/root to/to/TO/5/mark be/be/VB/5/auxpass seen/see/VBN/2/xcomp"
    assert found(seen, 5) == {"She": "A1"}
    told = "We/we/PRP/2/nsubj told/tell/VBD/0/root *her/she/PRP/2/dobj to/to/TO/5/mark sing/sing/VB/2/xcomp"
    assert found(told, 5) == {"her": "A0"}
    assert found(told, 2) == {"her": "A2"}
    made = "We/we/PRP/2/nsubj made/make/VBD/0/root *her/she/PRP/2/dobj happy/happy/JJ/2/xcomp"
    assert found(made, 4) == {"her": "A1"}


def test_coordination() -> None:
    shared = (
        "*We/we/PRP/2/nsubj buy/buy/VBP/0/root and/and/CC/2/cc sell/sell/VBP/2/conj *cars/car/NNS/2/dobj "
        "and/and/CC/2/cc leave/leave/VBP/2/conj"
    )
    assert found(shared, 4) == {"We": "A0", "cars": "A1"}
    passive = (
        "*He/he/PRP/3/nsubjpass was/be/VBD/3/auxpass seized/seize/VBN/0/root and/and/CC/3/cc jailed/jail/VBN/3/conj "
        "and/and/CC/3/cc escaped/escape/VBD/3/conj"
    )
    assert found(passive, 5) == {"He": "A1"}
    assert found(passive, 7) == {"He": "A0"}


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("in/in/IN/3/case *Paris/Paris/NNP/1/nmod", "AM-LOC"),
        ("in/in/IN/3/case *1995/1995/CD/1/nmod", "AM-TMP"),
        ("in/in/IN/3/case *May/May/NNP/1/nmod", "AM-TMP"),
        ("on/on/IN/3/case *Friday/Friday/NNP/1/nmod", "AM-TMP"),
        ("on/on/IN/3/case *2001-09-11/2001-09-11/CD/1/nmod", "AM-TMP"),
        ("at/at/IN/3/case *5:30/5:30/CD/1/nmod", "AM-TMP"),
        ("on/on/IN/3/case *tables/table/NNS/1/nmod", "AM-LOC"),
        ("at/at/IN/3/case *5/5/CD/1/nmod", "AM-TMP"),
        ("at/at/IN/3/case *$/$/$/1/nmod 5/5/CD/3/nummod", "AM-EXT"),
        ("at/at/IN/3/case *end/end/NN/1/nmod of/of/IN/5/case year/year/NN/3/nmod", "AM-TMP"),
        ("at/at/IN/3/case *end/end/NN/1/nmod of/of/IN/5/case road/road/NN/3/nmod", "AM-LOC"),
        ("*yesterday/yesterday/NN/1/nmod:tmod", "AM-TMP"),
        ("because/because/IN/4/case of/of/IN/2/mwe *rain/rain/NN/1/nmod", "AM-CAU"),
        ("out/out/IN/4/case of/of/IN/4/case *bed/bed/NN/1/nmod", "AM-DIR"),
        ("than/than/IN/4/case in/in/IN/4/case *Paris/Paris/NNP/1/nmod", "AM-LOC"),
        ("up/up/IN/4/case until/until/IN/4/case *Friday/Friday/NNP/1/nmod", "AM-TMP"),
        ("at/at/IN/3/case *Ann/Ann/NNP/1/nmod 's/'s/POS/3/case", "AM-LOC"),
        ("for/for/IN/3/case *Ann/Ann/NNP/1/nmod", "A2"),
        ("for/for/IN/3/case *fun/fun/NN/1/nmod", "AM-PNC"),
        ("for/for/IN/3/case *years/year/NNS/1/nmod", "AM-TMP"),
        ("by/by/IN/3/case *train/train/NN/1/nmod", "AM-MNR"),
        ("in/in/IN/3/case *fact/fact/NN/1/nmod", "AM"),
    ],
)
def test_phrases(phrase: str, expected: str) -> None:
    """Dates are times whatever their preposition; of several prepositions the one that governs decides."""
    assert list(found(f"dance/dance/VB/0/root {phrase}", 1).values()) == [expected]


def graph(text: str, pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """Return the graph that UDS would have of a tree, with arguments of predicates, both from 1."""
    made = tree(text)
    nodes: list[dict[str, Any]] = [
        {"domain": "syntax", "type": "token", "position": i, "form": form, "lemma": lemma, "upos": "X", "xpos": tag,
         "id": f"ewt-dev-1-syntax-{i}"}
        for i, (form, lemma, tag) in enumerate(zip(made.forms, made.lemmas, made.tags, strict=True), 1)
    ]  # fmt: skip
    edges: dict[str, list[dict[str, Any]]] = {node["id"]: [] for node in nodes}
    root = "ewt-dev-1-root-0"
    nodes.append({"position": 0, "domain": "root", "type": "root", "id": root})
    for name in (root, "ewt-dev-1-semantics-pred-root", *(f"ewt-dev-1-semantics-pred-{p}" for p, _ in pairs)):
        edges.setdefault(name, [])
    nodes += [{"domain": "semantics", "type": "predicate", "id": name} for name in edges if "semantics" in name]
    for i, (head, relation) in enumerate(zip(made.heads, made.relations, strict=True), 1):
        above = f"ewt-dev-1-syntax-{head + 1}" if head >= 0 else root
        edges[above].append(
            {"deprel": relation, "domain": "syntax", "type": "dependency", "id": f"ewt-dev-1-syntax-{i}"}
        )
    edges["ewt-dev-1-semantics-pred-root"] += [
        {"domain": "interface", "type": "dependency", "frompredpatt": False, "id": root},
        {"domain": "semantics", "type": "dependency", "frompredpatt": False, "id": "ewt-dev-1-semantics-arg-0"},
    ]
    for predicate, argument in pairs:
        name = f"ewt-dev-1-semantics-pred-{predicate}"
        target = f"ewt-dev-1-semantics-arg-{argument}"
        edges[name] += [
            {"domain": "semantics", "type": "dependency", "frompredpatt": True, "id": target},
            {"domain": "interface", "type": "head", "id": f"ewt-dev-1-syntax-{predicate}"},
        ]
    return {"directed": True, "nodes": nodes, "adjacency": [edges[node["id"]] for node in nodes]}


def wheel(path: Path, graphs: list[dict[str, Any]]) -> Path:
    data = {f"ewt-dev-{i}": graph for i, graph in enumerate(graphs)}
    with zipfile.ZipFile(path, "w") as archive:
        for split in uds.SPLITS:
            archive.writestr(uds._MEMBER.format(split), json.dumps({"metadata": {"data": {}}, "data": data}))
    return path


@pytest.mark.parametrize("chunk", [7, 2**20])
def test_the_script_reads_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(uds, "_CHUNK", chunk)
    plain = [text.replace("*", "") for text in (ACTIVE, PASSIVE)]
    graphs = [graph(plain[0], [(2, 1), (2, 3), (2, 4)]), graph(plain[1], [(3, 1), (3, 5), (3, 7)]), graph(plain[0], [])]
    counts = uds.build(wheel(tmp_path / "a.whl", graphs), tmp_path / "out")
    first, second, third = conll.read_conll(tmp_path / "out" / "dev.conll09.gz")
    assert first.form == ["Ann", "sent", "Bob", "books"]
    assert (first.head, first.deprel, first.pos) == (
        [2, 0, 2, 2],
        ["nsubj", "root", "iobj", "dobj"],
        ["NNP", "VBD", "NNP", "NNS"],
    )
    assert (first.predicates, first.pred, first.roles) == ([1], ["send.01"], [["A0", "_", "A2", "A1"]])
    assert second.roles == [["A1", "_", "_", "_", "A0", "_", "A2"]]
    assert (third.predicates, third.phead, set(third.ppos)) == ([], None, {"_"})
    assert counts["dev"]["pairs"] == 6
    assert counts["dev"]["sentences"] == 3
    assert "role A1" in uds.report(counts)


def test_the_script_counts_what_was_mended() -> None:
    there = "There/there/EX/2/expl is/be/VBZ/0/root Ann/Ann/NNP/2/nsubj in/in/IN/5/case May/May/NNP/2/nmod"
    counts = Counter[str]()
    uds.convert(graph(there, [(2, 3), (2, 5)]), counts)
    posted = "Posted/post/VBN/0/root up/up/IN/4/case until/until/IN/4/case Friday/Friday/NNP/1/nmod"
    uds.convert(graph(posted, [(1, 4)]), counts)
    assert {name: count for name, count in counts.items() if name.startswith("mended")} == {
        "mended: subject of there is": 1,
        "mended: time after a place's preposition": 1,
        "mended: passive without auxiliary": 1,
        "mended: not the first preposition": 1,
    }


@pytest.mark.parametrize("content", [None, b"", b"no archive", "no member", "no data"])
def test_other_files_are_no_wheel(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "a.whl"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a" if content == "no member" else uds._MEMBER.format("train"), '{"data": {"a": {}')
    with pytest.raises(UserError, match=r"expected the wheel of decomp 0\.3\.2; .*: check the path"):
        list(uds.read_graphs(path, "train"))


@cache
def bundled(split: str) -> Any:
    return conll.read_conll(DATA / f"{split}.conll09.gz")


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", (12_543, 204_586, 27_393, 52_677)),
        ("dev", (2_002, 25_148, 3_344, 6_172)),
        ("test", (2_077, 25_096, 3_200, 6_003)),
    ],
)
def test_the_bundled_files_hold_what_uds_holds(split: str, expected: tuple[int, ...]) -> None:
    sentences = bundled(split)
    names = Counter(role for s in sentences for k in range(len(s.predicates)) for _, role in s.arguments(k))
    counts = len(sentences), sum(map(len, sentences)), sum(len(s.predicates) for s in sentences), names.total()
    assert counts == expected
    assert set(names) == {"A0", "A1", "A2", "AC", "AM"} | {
        f"AM-{kind}" for kind in ("TMP", "LOC", "DIR", "MNR", "CAU", "PNC", "EXT")
    }
    shares = {name: count / names.total() for name, count in names.items()}
    assert 0.36 < shares["A1"] < 0.43
    assert 0.27 < shares["A0"] < 0.33
    assert 0.09 < shares["AC"] < 0.11
    assert 0.03 < shares["AM-TMP"] < 0.05


def test_the_bundled_roles_are_those_of_the_rules() -> None:
    for sentence in bundled("dev"):
        made = trees.Tree(sentence.form, sentence.lemma, sentence.pos, sentence.heads, sentence.deprel)
        for k, predicate in enumerate(sentence.predicates):
            assert sentence.pred[k] == f"{sentence.lemma[predicate]}.01"
            for argument, name in sentence.arguments(k):
                assert roles.role(made, predicate, argument) == name


def test_the_notice_names_sources_and_licences() -> None:
    notice = (DATA / "NOTICE").read_text(encoding="utf-8")
    for part in (
        "CC BY-SA 4.0", "Universal Decompositional Semantics 2.0", "Universal Dependencies English Web Treebank",
        "LDC2012T13", "Google", "Public Domain Dedication", "Pennington", "What was changed",
    ):  # fmt: skip
        assert part in notice
    assert {path.name for path in DATA.iterdir()} == {
        *(f"{split}.conll09.gz" for split in uds.SPLITS),
        "glove.safetensors",
        "NOTICE",
    }


def test_the_bundled_vectors_are_gloves() -> None:
    words, vectors = glove.load_vectors(DATA / "glove.safetensors")
    assert words == sorted(set(words))
    assert (vectors.shape, vectors.dtype) == ((len(words), 50), np.float32)
    assert read_arrays(DATA / "glove.safetensors")["vectors"].dtype == np.float16
    # the first values of "the" in glove.6B.50d.txt
    assert np.allclose(vectors[words.index("the")][:4], [0.418, 0.24968, -0.41242, 0.1217], atol=1e-3)
    known = set(words)
    for split, least in (("train", 0.98), ("dev", 0.98), ("test", 0.97)):
        assert glove.coverage(known, glove.forms(bundled(split))) > least


def test_glove_text_files_are_read(tmp_path: Path) -> None:
    text = "the 1 -2.5 3e-1\n, 0 0 0\r\n. . . 4 5 6\né 7 8 9\nthe 0 0 0"
    for path, content in ((tmp_path / "a.txt", text.encode()), (tmp_path / "a.txt.gz", gzip.compress(text.encode()))):
        path.write_bytes(content)
        words, vectors = glove.load_vectors(path)
        assert words == ["the", ",", ". . .", "é"]
        assert vectors.dtype == np.float32
        assert np.allclose(vectors, np.array([[1, -2.5, 0.3], [0, 0, 0], [4, 5, 6], [7, 8, 9]]))
        words, vectors = glove.load_vectors(path, wanted={"é", "the", "none"})
        assert words == ["the", "é"]
        assert np.allclose(vectors, np.array([[1, -2.5, 0.3], [7, 8, 9]]))
        assert glove.load_vectors(path, wanted=())[1].shape == (0, 3)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ("expected a GloVe text file", "No such file")),
        (b"", ("expected at least one word", "is empty")),
        (b"400000 50\nthe 1 2\n", ("line 1", "got a header, as word2vec writes it")),
        (b"the\n", ("expected a word and the values of its vector", "line 1", "got 'the'")),
        (b"the 1 2\na 1\n", ("expected a word and 2 values", "line 2", "got 1 values")),
        (b"the 1 2\na 1 2 3\n", ("expected a word and 2 values", "line 2", "got 3 values")),
        (b"the 1 2\na 1 x\n", ("expected a number", "line 2", "got 'x'")),
        (b"the 1 1e39\n", ("expected a number", "line 1", "got '1e39'")),
        (b"2 2 \nthe 1 2\n", ("expected a number", "line 1", "got ''")),
        (b"the 1 2\na 1 nan\n", ("expected a number", "line 2", "got 'nan'")),
        (b"the 1 2\n\n", ("expected a word and 2 values", "line 2", "got 0 values")),
        (b"the 1 2\n\xe9 1 2\n", ("expected UTF-8", "line 2")),
    ],
)
def test_other_text_files_are_no_vectors(tmp_path: Path, content: bytes | None, parts: tuple[str, ...]) -> None:
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        glove.load_vectors(path)
    for part in (*parts, str(path)):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["absent", "damaged", "names", "lengths", "numbers", "encoding"])
def test_other_arrays_are_no_vectors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    arrays = {"vectors": np.zeros((2, 3)), "words": np.frombuffer(b"a\nb", np.uint8)}
    changes = {
        "lengths": {"words": np.frombuffer(b"a", np.uint8)},
        "numbers": {"vectors": np.full((2, 3), np.nan)},
        "encoding": {"words": np.frombuffer(b"\xe9\nb", np.uint8)},
    }
    if kind == "damaged":
        path.write_bytes(b"x")
    elif kind != "absent":
        write_arrays(path, {"x": np.zeros(1)} if kind == "names" else arrays | changes[kind])
    with pytest.raises(UserError, match="expected ") as error:
        glove.load_vectors(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_other_script_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.whl"

    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(glove.importlib, "import_module", absent)
    with pytest.raises(UserError, match="pip install pyarrow"):
        glove.cut(path, [])
