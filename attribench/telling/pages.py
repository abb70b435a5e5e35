"""The pages of a checkout that are written from the catalogue and the reference results, so that no figure is typed.

``python -m attribench.telling.pages`` writes ``docs/figures.md``, ``docs/results.md`` (from ``docs/results.md.j2``) and
the marked blocks of ``README.md``; a test fails where they are not what it writes.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path

import pandas as pd
from rich.console import Console

from ..base.errors import UserError
from ..base.files import write_atomically
from ..base.pieces import Cell
from ..scoring import judge as judge  # importing it registers the harness's scorers
from ..scoring.families import fits
from ..scoring.figures import CATALOGUE, Table, entry_of
from ..scoring.scorers import scorers
from ..storing.records import About, ProblemResult, Record, Result
from .cards import ROOT, Reference, render, render_card
from .console import TABLE_WIDTH, say
from .glossary import glossary
from .kept import KEPT
from .tables import KEYS, Report
from .terminal import print_comparison

COMMAND = "python -m attribench.telling.pages"
TEMPLATES = [ROOT / "docs", ROOT / "tasks"]
CONTROLS = ("gold", "keep-all", "drop-all")
"""Those that the README shows; the others belong to a method."""

TITLES: dict[Table, tuple[str, str]] = {
    "scores": ("`scores.csv`", "One row per cell and control. Those with a label have a column on the terminal."),
    "comparison": ("`comparison.csv`", "Beside `..._mean`, `_std`, `_low` and `_high` of figures above."),
    "layers": ("`layers.csv`", "Beside precision, recall, F1 and AUROC of the layer, where its gold is known."),
    "per_graph": ("`per_graph.csv`", "Beside the figures above that are paired by graph, of one graph each."),
    "costs": ("`costs.csv`", "One row per cell."),
    "tasks": ("`tasks.csv`", "One row per trained model. Tasks have further figures, and say what they mean."),
}  # fmt: skip


def pages() -> dict[Path, str]:
    """Return the text of every page that is written, by its path in the checkout.

    Raises:
        UserError: when this is no checkout.
    """
    if not (ROOT / "docs" / "results.md.j2").is_file():
        raise UserError(f"expected a checkout with docs/; {ROOT} is none: run {COMMAND} in one")
    readme, card = (ROOT / "README.md").read_text(encoding="utf-8"), render_card("toy", alone=False)
    older = render("older_note.md.j2", TEMPLATES, reference=Reference(ROOT / "results" / "reference" / "toy")).strip()
    table = f"```\n{kept_table('toy')}\n```" + (f"\n\n{older}" if older else "")
    for name, content in {"table": table, "conclusions": verdicts(card)}.items():
        readme = with_block(readme, name, content)
    return {Path("README.md"): readme, Path("docs/figures.md"): figures(), Path("docs/results.md"): results(card)}


def with_block(text: str, name: str, content: str) -> str:
    """Return a page with what stands between the marks of a block replaced.

    Raises:
        UserError: when it has not exactly one such block.
    """
    start, end = f"<!-- {name}: written by {COMMAND} -->", f"<!-- end of {name} -->"
    if [text.count(start), text.count(end)] != [1, 1]:
        raise UserError(f"expected one block between {start!r} and {end!r} in README.md: put the marks back")
    before, _, rest = text.partition(start)
    return f"{before}{start}\n{content}\n{end}{rest.partition(end)[2]}"


def figures() -> str:
    """Return the page of all figures, from the catalogue and what scorers say that they need."""
    columns: dict[Table, list[str]] = {table: list(_names(table)) for table in TITLES}
    frame = glossary(columns, {})
    lines = [
        "# Figures",
        f"<!-- written by {COMMAND} -->",
        "Every column of a run's tables, from the catalogue in `attribench/scoring/figures.py`; a run has those whose "
        "needs it meets, and lists them in its `figures.csv`. `{...}` stands for any text. *Better*: which way is. "
        "*Needs*: what a row must have. *Pairs on*: the unit on which two methods are compared in tests. How they are "
        "meant is told in [scoring.md](scoring.md).",
    ]
    for table, (title, about) in TITLES.items():
        rows = frame[frame["table"] == table]
        heads = ["figure", "label", "meaning", "unit", "better", "needs", "pairs_on"]
        heads = [head for head in heads if head == "figure" or rows[head].ne("").any()]
        labels = rows["label"].where(rows["label"] != rows["figure"], "")
        cells = rows.assign(figure="`" + rows["figure"] + "`", label=labels)[heads].itertuples(index=False)
        lines.append(f"## {title}\n\n{about}")
        lines.append(
            "\n".join(
                ["| " + " | ".join(heads).replace("_", " ") + " |", "|---" * len(heads) + "|"]
                + [f"| {' | '.join(map(str, row))} |" for row in cells]
            )
        )
    return "\n\n".join(lines) + "\n"


def _names(table: Table) -> Iterator[str]:
    """Yield what the columns of a table can be called, families by their patterns."""
    made = [name for one in scorers() for name in one.names]
    for figure in CATALOGUE:
        if figure.table != table:
            continue
        if "{figure}" not in figure.name:
            yield figure.name
        else:
            yield from (name for name in made if fits(figure.name, name) and entry_of(name) == figure)


def results(toy: str) -> str:
    """Return the page of what was found, from the toy's card and the summaries of the other cards."""
    text = render(
        "results.md.j2",
        TEMPLATES,
        toy=toy[toy.index("\n") :].strip().replace("\n## ", "\n### "),
        layers=Reference(ROOT / "results" / "reference" / "layers"),
        srl=Reference(ROOT / "results" / "reference" / "srl"),
        qa=Reference(ROOT / "results" / "reference" / "qa"),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def verdicts(toy: str) -> str:
    """Return what the toy's card says of the paper's conclusions, whether they hold, without the figures."""
    found = re.findall(r"^(\d\. \*.+?\*).*?: (\*\*.+?\*\*)\.", toy, re.MULTILINE)
    return "\n".join(f"{claim}: {verdict}" for claim, verdict in found)


class KeptReport(Report):
    """The tables of one task that a study has kept: what a run printed, without what is in no reference results.

    Args:
        reference: of the study.
        task: its name.
    """

    def __init__(self, reference: Reference, task: str) -> None:
        tables = {view: reference.table("methods", view) for view in KEPT}
        self._kept = {view: table[table["task"] == task] for view, table in tables.items()}
        cells = self._kept["scores"].query("kind == 'method'")
        ended = [
            Result(Cell(*row[: len(KEYS)]), Record.failed("").ended(*map(str, row[len(KEYS) :])), [])
            for row in cells[[*KEYS, "status", "reason"]].fillna("").itertuples(index=False)
        ]
        problems = [ProblemResult(task, *seeds, {}, (), ()) for seeds in {x.cell.problem.seeds for x in ended}]
        super().__init__(ended, problems, {task: About(summary_of(task))})

    def comparison(self) -> pd.DataFrame:
        """Return the rows of the methods, and of the controls that belong to none."""
        frame = self._kept["comparison"]
        return frame[(frame["kind"] == "method") | frame["method"].isin(CONTROLS)].reset_index(drop=True)

    def costs(self) -> pd.DataFrame:
        """Return no costs: they are not kept."""
        return pd.DataFrame(columns=[*KEYS, "status"])

    def tasks(self) -> pd.DataFrame:
        """Return what was kept of the task's models."""
        return self._kept["tasks"].dropna(axis=1, how="all")


def kept_table(task: str) -> str:
    """Return what a run printed of a task, from the reference results of its study."""
    out = StringIO()
    report = KeptReport(Reference(ROOT / "results" / "reference" / task), task)
    print_comparison(report, Console(file=out, width=TABLE_WIDTH))
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def summary_of(task: str) -> str:
    """Return the first line of a task's docstring, from its file: nothing here imports a plugin."""
    tree = ast.parse((ROOT / "tasks" / f"{task}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and f"name = {task!r}" in map(ast.unparse, node.body):
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise UserError(f"expected a class named {task!r} in tasks/{task}.py; got none")


def main() -> None:
    """Write the pages; where they cannot be made, that is one line on standard error and exit code 2."""
    try:
        for path, text in pages().items():
            write_atomically(ROOT / path, partial(_write, text))
            say(f"wrote {path}")
    except UserError as error:
        say(f"error: {error}")
        sys.exit(2)


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
