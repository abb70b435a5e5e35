"""What the bundled documents and queries say: several phrasings for everything.

A sentence that names an answer names nothing else, so that it is the same wherever it stands: what it belongs to, the
document alone tells.
"""

from __future__ import annotations

from random import Random

from .facts import Country, Place

QUERIES = {
    "capital": ("capital", "capital_city"),
    "summit": ("highest_point", "highest_elevation"),
    "port": ("seaport", "main_harbour"),
    "head of state": ("head_of_state", "chief_of_state"),
    "head of government": ("head_of_government", "leader_of_the_government"),
}
"""Relations of a country to a fact."""
OF_THE_COUNTRY = ("{}_of_the_country", "{}_of_the_surrounding_country")
"""Relations of a city to a fact of its country."""
ANSWERS = {
    "capital": (
        *("{} is a national capital", "the capital is {}", "the national capital is called {}"),
        *("{} serves as the capital", "the capital bears the name {}"),
    ),
    "summit": (
        *("the highest point is {}", "{} is the highest elevation", "no ground is higher than {}"),
        *("the land rises up to {}", "{} is higher than all other ground"),
    ),
    "port": (
        *("{} is a seaport", "a major port is {}", "ships call at the harbour of {}"),
        *("among the seaports is {}", "{} has a large harbour"),
    ),
    "head of state": (
        *("{} is the head of state", "the chief of state is {}", "the head of state is called {}"),
        *("{} holds the highest office", "the highest office is held by {}"),
    ),
    "head of government": (
        *("{} is the head of government", "the government is led by {}", "the cabinet is led by {}"),
        *("{} leads the government", "the head of government is called {}"),
    ),
}
_COUNTRIES = (
    *("{name} is a country of {area}", "the country of {name} covers {area}", "{name} is a country with {people}"),
    *("{people} live in the country of {name}", "{name}, a country of {area}, has {people}"),
)
_BELONGS = (
    *("{city} is a city in the country of {name}", "the country of {name} has a city called {city}"),
    *("{city}, a city of {people}, lies in the country of {name}", "among the cities of the country {name} is {city}"),
)
_CITIES = (
    *("{city} is a city of {people}", "{city}, a city of {people}, lies at {latitude}"),
    *("{people} live in the city of {city}", "the city of {city} lies at {latitude}"),
)
_OF_CITY = ("the city has {people}", "{people} live in the city", "the city lies at {latitude}")
_OF_COUNTRY = ("the country has {people}", "{people} live in the country", "the country covers {area}")


def sentence(text: str) -> str:
    """Return a sentence with its capital letter and full stop."""
    return f"{text[0].upper()}{text[1:]}."


def query(kind: str, subject: str, of_country: bool, draw: Random) -> str:
    """Return a query for a fact of a country, or of a city's country; relations are one word."""
    relation = draw.choice(QUERIES[kind])
    return f"{relation if of_country else draw.choice(OF_THE_COUNTRY).format(relation)} {subject.lower()}"


def answer(kind: str, name: str, draw: Random) -> str:
    """Return a sentence that names a fact and nothing else."""
    return sentence(draw.choice(ANSWERS[kind]).format(name))


def country(what: Country, draw: Random) -> str:
    """Return a sentence that names a country, and calls it so."""
    area, people = _area(what.area), _people(what.population)
    return sentence(draw.choice(_COUNTRIES).format(name=what.name, area=area, people=people))


def belongs(city: Place, what: Country, draw: Random) -> str:
    """Return a sentence that names a city and its country."""
    return sentence(draw.choice(_BELONGS).format(city=city.name, name=what.name, people=_people(city.population)))


def alone(city: Place, draw: Random) -> str:
    """Return a sentence that names a city and not its country."""
    return sentence(
        draw.choice(_CITIES).format(city=city.name, people=_people(city.population), latitude=_latitude(city.latitude))
    )


def the_city(city: Place, draw: Random) -> str:
    """Return a sentence about "the city"."""
    people, latitude = _people(city.population), _latitude(city.latitude)
    return sentence(draw.choice(_OF_CITY).format(people=people, latitude=latitude))


def the_country(what: Country, draw: Random) -> str:
    """Return a sentence about "the country"."""
    return sentence(draw.choice(_OF_COUNTRY).format(people=_people(what.population), area=_area(what.area)))


def about(what: Country, draw: Random) -> str:
    """Return a sentence about a country that does not speak of it."""
    return sentence(draw.choice(what.prose))


def _people(count: int) -> str:
    return f"about {_round(count)} people"


def _area(count: int) -> str:
    return f"about {_round(count)} square kilometres"


def _round(count: int) -> str:
    """Return a number with two digits that count."""
    if count >= 10**6:
        return f"{float(f'{count / 10**6:.2g}'):g} million"
    return f"{int(float(f'{count:.2g}')):,}"


def _latitude(degrees: int) -> str:
    return f"{abs(degrees)} degrees {'north' if degrees >= 0 else 'south'}"
