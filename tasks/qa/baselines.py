"""What answers items without a model: an oracle that follows edges, and baselines that see none.

``python -m attribench.tasks.qa.baselines FOLDER`` prints it for the files of a folder. All choose among the candidates
of the answer's own kind, so chance is one over their number; where several candidates are equally good, each is chosen
with equal chance, and its share of the right answers is exact. The interval is that of the difference to chance, item
by item.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from attribench.base.errors import UserError

from ..srl.glove import coverage
from .graphs import COMPLEMENT, MentionGraph, make_graphs
from .mentions import STOPS, tokenize, words
from .phrases import OF_THE_COUNTRY, QUERIES
from .vectors import DATA, SPLITS, VECTORS, WordVectors, vocabulary
from .wikihop import read_wikihop

HOPS = 3
"""Edges that the oracle follows at most."""
Choice = Callable[[MentionGraph], np.ndarray]
"""From a graph to a number for every candidate ``(C,)``; the largest is chosen."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The share of items that are answered, and what it is above chance, with its 95% interval."""

    accuracy: float
    above: float
    low: float
    high: float

    @staticmethod
    def of(right: np.ndarray, chance: np.ndarray) -> Measured:
        """Return it from the chance to be right of every item, here and for a random choice of the right kind."""
        difference = right - chance
        error = 1.96 * difference.std(ddof=1) / np.sqrt(len(right))
        above = float(difference.mean())
        return Measured(float(right.mean()), above, above - error, above + error)


def asked_kind(relation: str) -> str:
    """Return the kind of what a bundled query asks for."""
    for kind, names in QUERIES.items():
        for name in names:
            if relation.replace(" ", "_") in (name, *(pattern.format(name) for pattern in OF_THE_COUNTRY)):
                return kind
    raise UserError(f"expected a relation of the bundled items; got {relation!r}: measure those")


def oracle(graph: MentionGraph) -> np.ndarray:
    """Prefer candidates of the kind that is asked for that are the fewest edges away from the subject.

    It knows names (of which kind each is), the query, and the edges but for COMPLEMENT.
    """
    joined = graph.adjacency()[:COMPLEMENT].any(0).numpy()
    reached = graph.subject.numpy()
    closeness = np.zeros(graph.num_nodes)
    for step in range(HOPS, 0, -1):
        reached = reached | joined[:, reached].any(1)
        closeness = np.where(reached & (closeness == 0), step, closeness)
    kinds = _kinds(graph)
    return np.asarray(_largest(graph, closeness) * (kinds == asked_kind(graph.item.relation)))


def _kinds(graph: MentionGraph) -> np.ndarray:
    gold = graph.item.gold
    if gold is None:
        raise UserError(f"expected the kinds of candidates; {graph.item.id} has no gold: measure the bundled items")
    return np.array(gold.kinds)


def _largest(graph: MentionGraph, values: np.ndarray) -> np.ndarray:
    """Return every candidate's largest value among its mentions."""
    largest = np.full(graph.num_candidates, -np.inf)
    owned = graph.candidate.numpy() >= 0
    np.maximum.at(largest, graph.candidate.numpy()[owned], values[owned])
    return largest


def _total(graph: MentionGraph, values: np.ndarray) -> np.ndarray:
    owned = graph.candidate.numpy() >= 0
    return np.bincount(graph.candidate.numpy()[owned], values[owned], minlength=graph.num_candidates)


def _degree(graph: MentionGraph) -> np.ndarray:
    """Return how many edges but COMPLEMENT end in every node."""
    ends = graph.edge_index[1][graph.edge_type != COMPLEMENT].numpy()
    return np.asarray(np.bincount(ends, minlength=graph.num_nodes))


def _place(graph: MentionGraph) -> np.ndarray:
    return np.asarray(graph.document.numpy() * 10_000 + graph.span[:, 0].numpy())


def _length(graph: MentionGraph) -> np.ndarray:
    """Return the length of every node's document."""
    lengths = np.array([len(tokenize(text).words) for text in graph.item.supports])
    return np.asarray(lengths[graph.document.numpy()])


def _overlap(graph: MentionGraph) -> np.ndarray:
    query = set(graph.query)
    return np.array([len(query & set(words(name))) for name in graph.item.candidates], float)


def shared_letters(subject: str, names: Sequence[str]) -> np.ndarray:
    """Return the share of each name's letter triples that the subject has, too ``(C,)``."""
    own = _triples(subject)
    return np.array([len(own & triples) / len(triples) for triples in map(_triples, names)])


@cache
def _triples(text: str) -> frozenset[str]:
    marked = f"<{text.lower()}>"
    return frozenset(marked[at : at + 3] for at in range(max(1, len(marked) - 2)))


def by_vector(vectors: WordVectors) -> Choice:
    """Return the choice of the candidate whose name's vector is most like the subject's."""

    def choose(graph: MentionGraph) -> np.ndarray:
        names = np.stack([vectors.name(words(name)) for name in graph.item.candidates])
        subject = vectors.name(words(graph.item.subject))
        return np.asarray(names @ subject / np.linalg.norm(names, axis=1))

    return choose


def pairs(subject: str, names: Sequence[str], vectors: WordVectors) -> np.ndarray:
    """Return what is to be seen of a subject and C names ``(C, 3 D + 2)``.

    Of every name its vector, the products with the subject's, the squared differences, the letters it shares, and its
    length.
    """
    own = np.stack([vectors.name(words(name)) for name in names])
    asked = vectors.name(words(subject))
    letters = np.stack([shared_letters(subject, names), [len(name) for name in names]], axis=1)
    return np.concatenate([own, own * asked, (own - asked) ** 2, letters], axis=1)


def by_vectors(train: Sequence[MentionGraph], vectors: WordVectors) -> Choice:
    """Return the choice of a logistic regression over :func:`pairs`; it learns as :func:`by_words` does."""

    def describe(graph: MentionGraph) -> np.ndarray:
        return pairs(graph.item.subject, graph.item.candidates, vectors)

    rows, labels = [], []
    for graph in train:
        same = _same_kind(graph)
        rows.append(describe(graph)[same])
        labels.append(same == graph.answer)
    table = np.concatenate(rows)
    scale = table.std(0) + 1e-9
    model = LogisticRegression(C=0.1, max_iter=200).fit(table / scale, np.concatenate(labels))
    return lambda graph: np.asarray(model.decision_function(describe(graph) / scale))


def _same_kind(graph: MentionGraph) -> np.ndarray:
    """Return the candidates of the answer's kind."""
    kinds = _kinds(graph)
    return np.flatnonzero(kinds == kinds[graph.answer])


SIMPLE: dict[str, Choice] = {
    "random of the right kind": lambda graph: np.zeros(graph.num_candidates),
    "most mentioned": lambda graph: _total(graph, np.ones(graph.num_nodes)),
    "least mentioned": lambda graph: -_total(graph, np.ones(graph.num_nodes)),
    "highest degree": lambda graph: _largest(graph, _degree(graph)),
    "lowest degree": lambda graph: _largest(graph, -_degree(graph)),
    "most edges in all": lambda graph: _total(graph, _degree(graph)),
    "first mentioned": lambda graph: _largest(graph, -_place(graph)),
    "last mentioned": lambda graph: _largest(graph, _place(graph)),
    "early in its document": lambda graph: _largest(graph, -graph.span[:, 0].numpy()),
    "late in its document": lambda graph: _largest(graph, graph.span[:, 0].numpy()),
    "longest document": lambda graph: _largest(graph, _length(graph)),
    "shortest document": lambda graph: _largest(graph, -_length(graph)),
    "first in the list": lambda graph: -np.arange(graph.num_candidates),
    "words of the query": _overlap,
    "letters of the subject": lambda graph: shared_letters(graph.item.subject, graph.item.candidates),
    "longest name": lambda graph: np.array([len(name) for name in graph.item.candidates]),
}


def sentences(graph: MentionGraph) -> list[Counter[str]]:
    """Return for every candidate the words of the sentences that name it, without its name."""
    bags = [Counter[str]() for _ in range(graph.num_candidates)]
    documents = [words(text) for text in graph.item.supports]
    for candidate, document, (start, end) in zip(
        graph.candidate.tolist(), graph.document.tolist(), graph.span.tolist(), strict=True
    ):
        if candidate >= 0:
            text = documents[document]
            first = next((at for at in range(start - 1, -1, -1) if text[at] in STOPS), -1) + 1
            last = next((at for at in range(end, len(text)) if text[at] in STOPS), len(text))
            bags[candidate].update(text[first:start] + text[end:last])
    return bags


def by_words(train: Sequence[MentionGraph]) -> Choice:
    """Return the choice of a logistic regression over the words of a candidate's own sentences.

    It learns from the candidates of the answers' kinds.
    """
    bags, labels = [], []
    for graph in train:
        found = sentences(graph)
        for candidate in _same_kind(graph):
            bags.append(found[candidate])
            labels.append(candidate == graph.answer)
    counts = Counter(word for bag in bags for word in bag)
    numbers = {word: number for number, word in enumerate(word for word, count in counts.items() if count >= 5)}
    model = LogisticRegression(C=0.1, max_iter=200).fit(_matrix(bags, numbers), labels)
    return lambda graph: np.asarray(model.decision_function(_matrix(sentences(graph), numbers)))


def _matrix(bags: Sequence[Counter[str]], numbers: dict[str, int]) -> csr_matrix:
    cells = [
        (row, numbers[word], count) for row, bag in enumerate(bags) for word, count in bag.items() if word in numbers
    ]
    rows, columns, counts = np.array(cells).reshape(-1, 3).T
    return csr_matrix((counts, (rows, columns)), shape=(len(bags), len(numbers)), dtype=float)


def measure(graphs: Sequence[MentionGraph], choose: Choice) -> Measured:
    """Return how often a choice among the candidates of the answer's kind is right."""
    right, chance = [], []
    for graph in graphs:
        kinds = _kinds(graph)
        same = kinds == kinds[graph.answer]
        values = np.where(same, choose(graph), -np.inf)
        best = same & (values == values.max())
        right.append(best[graph.answer] / best.sum())
        chance.append(1 / same.sum())
    return Measured.of(np.array(right, float), np.array(chance))


def measure_all(
    train: Sequence[MentionGraph], graphs: Sequence[MentionGraph], vectors: WordVectors
) -> dict[str, Measured]:
    """Return what the oracle and the baselines reach on graphs; those that learn learn from ``train``."""
    choices = {
        "oracle": oracle,
        **SIMPLE,
        "vector like the subject's": by_vector(vectors),
        "learned from vectors": by_vectors(train, vectors),
        "learned from its sentences": by_words(train),
    }
    return {name: measure(graphs, choose) for name, choose in choices.items()}


def report(found: dict[str, Measured]) -> str:
    """Return a table."""
    lines = [f"{'':28}{'right':>8}{'above chance (95%)':>26}"]
    for name, m in found.items():
        interval = f"{m.above:+.3f} ({m.low:+.3f} to {m.high:+.3f})"
        lines.append(f"{name:28}{m.accuracy:>8.3f}{interval:>26}")
    return "\n".join(lines) + "\n"


def report_folder(folder: Path) -> str:
    """Return counts and tables of the files in a folder.

    Raises:
        UserError: when one is not there, or has no gold.
    """
    made = {split: make_graphs(read_wikihop(folder / f"{split}.json.gz")[0]) for split in SPLITS}
    vectors = WordVectors.load(folder / VECTORS)
    lines = []
    for split, graphs in made.items():
        counts = ", ".join(f"{count} {name}" for name, count in graphs.counts.items() if count)
        tokens = vocabulary(graph.item for graph in graphs.graphs)
        lines.append(f"{split}: {counts}; {coverage(vectors.rows, tokens):.1%} of {len(tokens)} tokens in GloVe\n")
    lines += [
        f"\n{split}\n{report(measure_all(made['train'].graphs, made[split].graphs, vectors))}" for split in SPLITS[1:]
    ]
    return "".join(lines)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Measure what answers the bundled items without a model.")
    parser.add_argument("folder", type=Path, nargs="?", default=DATA, help="with train, dev, test and vectors")
    try:
        sys.stdout.write(report_folder(parser.parse_args().folder))
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
