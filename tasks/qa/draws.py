"""Draws what an item is about, so that names alone do not tell the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from random import Random

import numpy as np
from sklearn.linear_model import LogisticRegression

from attribench.base.seeds import derive

from . import phrases
from .baselines import pairs, shared_letters
from .facts import Country, Place
from .mentions import words
from .vectors import WordVectors

COUNTRIES = 5
"""Of an item."""
SPELLED = 0.5
"""The share that is kept of draws whose answer alone is spelled most like the subject."""
FAVOURED = 0.7
"""The share that is kept of draws whose answer alone is most like the subject by the second learned measure."""
NEIGHBOURS = 3
"""An item's countries are drawn among so many more, a country and those that are most like it by their names."""
ONE_HOP = 0.45
"""The share of draws whose answer stands in the subject's document; about a third of the items remain such."""
LEARNT_FROM, LEARNT_AGAIN = 8_000, 3_000
"""Draws from which the likeness of names is learned, first and second."""
PAIRS = tuple(
    pair
    for pair in permutations(phrases.ANSWERS, 2)
    # two persons, or two places by the sea, would not be told apart by their names
    if set(pair) not in ({"head of state", "head of government"}, {"capital", "port"})
)
"""Kinds: the one that is asked for, and the other."""


class Likeness:
    """How alike names are, by the cosine of their vectors and by two measures that are learned.

    The first learned one tells facts from those of other countries in the training split, by a logistic regression over
    :func:`.baselines.pairs`: a direction of the vectors that says "same part of the world" would tell answers, too. The
    second is learned from draws that the other measures balance already.

    Args:
        vectors: of all names.
        train: countries of the training split.
    """

    def __init__(self, vectors: WordVectors, train: Sequence[Country]) -> None:
        self.vectors = vectors
        self._known: dict[str, np.ndarray] = {}
        self._nearest: dict[tuple[str, tuple[str, str]], list[Country]] = {}
        self._own: dict[str, np.ndarray] = {}
        draw = Random(derive("qa", "likeness"))
        self.weights = self._learn([draw_names(train, self, draw) for _ in range(LEARNT_FROM)])
        self.again = np.zeros_like(self.weights)
        self.again = self._learn([draw_balanced(train, self, random_ranks(draw), draw) for _ in range(LEARNT_AGAIN)])

    def _learn(self, drawn: Sequence[Names]) -> np.ndarray:
        """Return a weight for each column of :func:`.baselines.pairs`."""
        table = np.concatenate([pairs(x.subject, x.facts, self.vectors) for x in drawn])
        scale = table.std(0) + 1e-9
        model = LogisticRegression(C=0.1, max_iter=200)
        model.fit(table / scale, [place == 0 for _ in drawn for place in range(COUNTRIES)])
        # rounded, so that a last digit that depends on the machine decides nothing
        return np.asarray(np.round(model.coef_[0] / scale, 4))

    def is_told(self, name: str, others: Sequence[str], draw: Random) -> bool:
        """Say whether the first of the others is to be drawn anew, because its likeness to a name tells too much."""
        shares = shared_letters(name, others)
        if shares[0] > shares[1:].max() and draw.random() >= SPELLED:
            return True
        values = pairs(name, others, self.vectors) @ self.again
        return bool(values[0] > values[1:].max() and draw.random() >= FAVOURED)

    def ranks(self, name: str, others: Sequence[str]) -> tuple[int, int]:
        """Return how many of the others are more like a name than the first of them is.

        Once by the cosine, and once by the first learned measure.
        """
        asked, known = self._plain(name), np.stack([self._plain(other) for other in others])
        alike = known @ asked / np.sqrt((known**2).sum(1))
        own, product, difference = self.weights[:-2].reshape(3, -1)  # of the parts of `pairs`
        learned = known @ own + (known * asked) @ product + (known - asked) ** 2 @ difference
        learned += shared_letters(name, others) * self.weights[-2] + np.array([*map(len, others)]) * self.weights[-1]
        return int((alike > alike[0]).sum()), int((learned > learned[0]).sum())

    def _plain(self, name: str) -> np.ndarray:
        """Return a name's vector."""
        if name not in self._own:
            self._own[name] = self.vectors.name(words(name)).astype(float)
        return self._own[name]

    def nearest(self, country: Country, able: Sequence[Country], kinds: tuple[str, str]) -> list[Country]:
        """Return those of the countries with such facts that are most like one, by their names' vectors, and it."""
        key = (country.name, kinds)
        if key not in self._nearest:
            order = sorted(able, key=lambda other: -float(self._country(country) @ self._country(other)))
            self._nearest[key] = order[: COUNTRIES + NEIGHBOURS]
        return self._nearest[key]

    def _country(self, country: Country) -> np.ndarray:
        if country.name not in self._known:
            names = [country.name, *country.facts.values(), *(city.name for city in country.cities)]
            mean = np.mean([_unit(self._plain(name)) for name in names], axis=0)
            self._known[country.name] = _unit(mean)
        return self._known[country.name]


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


@dataclass(frozen=True, slots=True)
class Names:
    """What an item is about: countries, of which the first is the one that is asked for, and a city of each."""

    kinds: tuple[str, str]
    countries: list[Country]
    cities: list[Place]
    one_hop: bool

    @property
    def subject(self) -> str:
        """What the query is about."""
        return self.countries[0].name if self.one_hop else self.cities[0].name

    @property
    def facts(self) -> list[str]:
        """Of the kind that is asked for; the first is the answer."""
        return [country.facts[self.kinds[0]] for country in self.countries]


def draw_names(countries: Sequence[Country], likeness: Likeness, draw: Random) -> Names:
    """Draw what an item is about."""
    kinds = draw.choice(PAIRS)
    able = _able(countries, kinds)
    chosen = draw.sample(likeness.nearest(draw.choice(able), able, kinds), COUNTRIES)
    return Names(kinds, chosen, [draw.choice(country.cities) for country in chosen], draw.random() < ONE_HOP)


def random_ranks(draw: Random) -> tuple[int, int]:
    """Return the places that an answer is to have by the two measures of :meth:`Likeness.ranks`."""
    return draw.randrange(COUNTRIES), draw.randrange(COUNTRIES)


def draw_balanced(countries: Sequence[Country], likeness: Likeness, ranks: tuple[int, int], draw: Random) -> Names:
    """Draw what an item is about until the answer has these places, and is not told by its name."""
    while True:
        names = draw_names(countries, likeness, draw)
        found = likeness.ranks(names.subject, names.facts)
        if found == ranks and not likeness.is_told(names.subject, names.facts, draw):
            return names


def _able(countries: Sequence[Country], kinds: tuple[str, str]) -> list[Country]:
    """Return the countries with facts of these kinds."""
    return [country for country in countries if kinds[0] in country.facts and kinds[1] in country.facts]
