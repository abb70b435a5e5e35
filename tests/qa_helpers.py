"""What tests of question answering share: a small item, and its entry in a file."""

import importlib
from typing import Any

coreference: Any = importlib.import_module("attribench.tasks.qa.coreference")
graphs: Any = importlib.import_module("attribench.tasks.qa.graphs")
mentions: Any = importlib.import_module("attribench.tasks.qa.mentions")
wikihop: Any = importlib.import_module("attribench.tasks.qa.wikihop")

ENTRY = {
    "id": "a",
    "query": "capital_of_the_country Herat",
    "answer": "kabul",
    "candidates": ["kabul", "afghanistan", "new york"],
    "supports": [
        "Herat is a city in the country of Afghanistan. The city is old.",
        "Afghanistan is a country. Kabul is its capital, and the country is large.",
    ],
}
GOLD: dict[str, Any] = {
    "kinds": ["capital", "country", "city"],
    "chain": [[0, 0, 1], [0, 8, 9], [1, 0, 1], [1, 5, 6]],
    "edges": ["DOC-BASED", "MATCH", "DOC-BASED"],
}


def entry(**changes: Any) -> dict[str, Any]:
    """Return an entry of a file with some fields changed, or without those that are None."""
    return {name: value for name, value in (ENTRY | changes).items() if value is not None}


def item(**changes: Any) -> Any:
    """Return an item; its answer is a number."""
    fields = {**ENTRY, "answer": 0, **changes}
    fields |= {name: tuple(fields[name]) for name in ("candidates", "supports")}
    return wikihop.Item(**fields)
