"""The pages are what is written, their links resolve, and what they name in the code is there."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from docs_helpers import NAMES, PAGES, ROOT, TEXTS, anchors, blocks, commands, inline_code, links

from attribench.base.errors import UserError
from attribench.plugins.registry import METHODS, TASKS
from attribench.running.options import RunOptions
from attribench.scoring.families import fits
from attribench.telling import pages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FRONT = [*PAGES, *(ROOT / name for name in ("LICENSE", "CITATION.cff", "pyproject.toml"))]


def test_written_pages_are_what_the_command_writes() -> None:
    for path, text in pages.pages().items():
        written = (ROOT / path).read_text(encoding="utf-8")
        assert written == text, f"{path}: run {pages.COMMAND}"


def test_the_command_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="2"):
        pages.main()
    assert "error: expected a checkout with docs/" in capsys.readouterr().err
    monkeypatch.setattr(pages, "pages", lambda: {Path("docs/figures.md"): "é\n"})
    pages.main()
    assert (tmp_path / "docs" / "figures.md").read_bytes() == "é\n".encode()
    assert capsys.readouterr().err == "wrote docs/figures.md\n"


def test_blocks_are_replaced_between_their_marks() -> None:
    marks = f"<!-- a: written by {pages.COMMAND} -->\n", "<!-- end of a -->"
    assert pages.with_block(f"x {marks[0]}old\n{marks[1]} y", "a", "new") == f"x {marks[0]}new\n{marks[1]} y"
    for text in ("", marks[0], f"{marks[0]}{marks[1]}" * 2):
        with pytest.raises(UserError, match="expected one block between '<!-- a: written by"):
            pages.with_block(text, "a", "new")


def test_a_task_without_a_class_of_its_name_has_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pages.summary_of("toy") == TASKS["toy"].summary()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "toy.py").write_text("class Toy:\n    name = 'other'\n")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    with pytest.raises(UserError, match="expected a class named 'toy'"):
        pages.summary_of("toy")


def test_the_conclusions_are_those_of_the_card() -> None:
    card = TASKS["toy"]().card()
    section = card[card.index("## The paper's conclusions") : card.index("## What the conclusions depend on")]
    items = [line for line in section.splitlines()[1:] if line.strip()]
    assert len(items) == 8
    assert "\n".join(items) in TEXTS[ROOT / "docs" / "results.md"]


def test_the_tables_are_those_of_the_cards() -> None:
    results = TEXTS[ROOT / "docs" / "results.md"]
    layers, srl = TASKS["decoy-gates"]().card(), TASKS["srl-gnn"]().card()
    assert layers[layers.index("| F1, and (F1 over edges") :].strip() in results
    start = srl.index("F1 (the paper: on CoNLL-2009")
    assert re.sub(r"\n{3,}", "\n\n", srl[start : srl.index("### All methods")].strip()) in results


def test_every_column_of_the_reference_results_is_among_the_figures() -> None:
    text = TEXTS[ROOT / "docs" / "figures.md"]
    for view in ("scores", "tasks"):
        section = text[text.index(f"## `{view}.csv`") :].partition("\n## ")[0]
        families = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
        known = {name for task in TASKS for name in TASKS[task].meanings}
        known |= {"task", "method", "data_seed", "model_seed", "fit_seed", "status", "reason", "kind"}
        for path in (ROOT / "results" / "reference").rglob(f"{view}.csv"):
            strangers = [str(c) for c in pd.read_csv(path, nrows=0) if c not in known]
            assert [c for c in strangers if not any(fits(name, c) for name in families)] == [], path


@pytest.mark.parametrize("name", NAMES)
def test_links_resolve(name: str) -> None:
    page = ROOT / name
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.is_file(), link
        assert not anchor or anchor in anchors(path), link


@cache
def defined(path: Path) -> set[str]:
    """Return what a file defines: functions, classes, their methods, and variables."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{x.name}" for x in node.body if isinstance(x, ast.FunctionDef)}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {x.id for x in targets if isinstance(x, ast.Name)}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_in_the_code_is_there(name: str) -> None:
    for path, _, what in re.findall(r"`((\w+)/[\w/]+\.py):([\w.]+)`", TEXTS[ROOT / name]):
        assert what in defined(ROOT / path), f"{path}:{what}"
    for path in re.findall(r"`((?:attribench|methods|tasks|tests|docs|results)/[\w/.*-]*)`", TEXTS[ROOT / name]):
        made = path.startswith("results/") and not path.startswith("results/reference")
        assert made or list(ROOT.glob(path.rstrip("/"))), path


def test_the_maps_of_the_paper_name_the_code() -> None:
    for name in ("paper.md", "deviations.md"):
        assert len(re.findall(r"\.py:\w", TEXTS[ROOT / "docs" / name])) > 35
    text = TEXTS[ROOT / "docs" / "paper.md"]
    assert {int(x) for x in re.findall(r"\bEq\. (\d+)", text)} | {10} == set(range(1, 14))
    assert set(re.findall(r"Appendix ([A-L])", text)) == set("BCDEFGHIJKL")


def test_every_option_is_told_and_every_option_told_is_there() -> None:
    told = {code.split()[0].split("=")[0] for page in PAGES for code in inline_code(page) if code.startswith("--")}
    known = {f"--{name.replace('_', '-')}" for name in RunOptions.model_fields} | {"--set", "--config", "--dry-run"}
    assert known <= told
    assert told <= known | {"--only", "--work", "--cells"}  # of `study` and `bench`


def test_plugins_are_told() -> None:
    log = TEXTS[ROOT / "CHANGELOG.md"]
    kinds: dict[str, type[Any]] = {**{x: METHODS[x] for x in METHODS}, **{x: TASKS[x] for x in TASKS}}
    come_along = [name for name, kind in kinds.items() if kind.__module__.startswith("attribench.")]
    assert len(come_along) >= 18
    assert [name for name in come_along if f"`{name}`" not in log] == []


def test_the_rooms_are_those_of_the_package() -> None:
    (rooms,) = [b.code for b in blocks(ROOT / "CONTRIBUTING.md") if "api.py" in b.code]
    told = re.findall(r"^  (\w+)/ ", rooms, re.MULTILINE)
    layers = PROJECT["tool"]["importlinter"]["contracts"][-1]["layers"]
    files = {"cli", "own_model", "bench", "studies", "api"}
    assert set(told) == {room for layer in layers for room in layer.split(" | ")} - files


@pytest.mark.parametrize("path", FRONT, ids=lambda path: path.name)
def test_no_addresses_and_no_paths_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"https?:|www\.|\w\.org\b|\w\.com\b|(?<![\w.])/(?:home|work|tmp|root|usr)\b", text) == []


def test_there_is_something_to_check() -> None:
    assert len(PAGES) >= 10
    assert len(list(commands())) >= 30
