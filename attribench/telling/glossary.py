"""What a run's columns mean, in a table of its own beside the others: words that no result depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ..scoring.families import inside
from ..scoring.figures import CATALOGUE, Table, entry_of, figure_of, needs_of

COLUMNS = ["table", "figure", "label", "meaning", "unit", "better", "needs", "pairs_on", "compared"]
BETTER = {True: "higher", False: "lower", None: ""}
LEFT_OUT = ("status", "reason", "kind", "layer", "graph")
"""Columns that say which row it is, and how it ended."""


def glossary(columns: Mapping[Table, Sequence[str]], meanings: Mapping[str, str]) -> pd.DataFrame:
    """Return one row for each figure, or family of figures, of some tables, in the catalogue's order.

    Args:
        columns: of the tables.
        meanings: what tasks say of figures of their own.
    """
    places = {figure: place for place, figure in enumerate(CATALOGUE)}
    rows: dict[tuple[str, str], tuple[int, dict[str, str | bool]]] = {}
    for table, names in columns.items():
        for name in names:
            if name not in LEFT_OUT:
                entry = entry_of(name, table)
                family = entry.name.replace("{figure}", inside(entry.name, name).get("figure", ""))
                rows.setdefault((entry.table, family), (places.get(entry, len(places)), _row(family, name, table)))
    ordered = sorted(rows.values(), key=lambda row: row[0])
    frame = pd.DataFrame([row for _, row in ordered], columns=COLUMNS)
    own = (frame["table"] == "tasks") & (frame["meaning"] == "")
    frame.loc[own, "meaning"] = frame.loc[own, "figure"].map(lambda name: meanings.get(name, ""))
    return frame


def _row(family: str, name: str, table: Table) -> dict[str, str | bool]:
    figure = figure_of(name, table)
    of_scores = figure.table == "scores"
    return {
        "table": figure.table,
        "figure": family,
        "label": figure.label or family,
        "meaning": figure.meaning,
        "unit": figure.unit,
        "better": BETTER[figure.higher_is_better],
        "needs": ", ".join(needs_of(name)) if of_scores else "",
        "pairs_on": figure.pairs_on if of_scores else "",
        "compared": of_scores and figure.compared is not None and figure.unit != "text",
    }
