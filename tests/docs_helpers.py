"""The pages of the project and what is in them: examples, commands, code and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]

_SAVED = re.compile(r"save it as `([\w.]+)`", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """A block of code: its language, and the name that it is to be saved under, if any."""

    page: Path
    language: str
    code: str
    name: str = ""


def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(TEXTS[page])


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of code; the paragraph before one says what it is saved as."""
    before = ""
    for token in _tokens(page):
        if token.type == "inline":
            before = token.content
        elif token.type in ("fence", "code_block"):
            saved = _SAVED.findall(before)
            yield Block(page, token.info.strip(), token.content, saved[-1] if saved and token.type == "fence" else "")
            before = ""


def inline_code(page: Path) -> list[str]:
    """Return what stands between backticks in the text."""
    children = (child for token in _tokens(page) for child in token.children or ())
    return [child.content for child in children if child.type == "code_inline"]


def links(page: Path) -> list[str]:
    """Return where links go."""
    children = (child for token in _tokens(page) for child in token.children or ())
    return [str(child.attrs["href"]) for child in children if child.type == "link_open"]


def anchors(page: Path) -> set[str]:
    """Return the names of the headings, as links call them."""
    tokens = _tokens(page)
    titles = (after.content for token, after in pairwise(tokens) if token.type == "heading_open")
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands() -> Iterator[tuple[Path, str]]:
    """Yield every line that is to be typed, in blocks and between backticks."""
    for page in PAGES:
        lines = [x for b in blocks(page) if b.language in ("", "sh") for x in b.code.splitlines()]
        typed = [line for line in lines if re.match(r"(python|pip|pytest|tox|ruff|mypy|lint-imports)\b", line)]
        inline = [code for code in inline_code(page) if code.startswith(("python -m", "pytest ", "tox -e"))]
        yield from ((page, line) for line in (*typed, *inline))


SAVED: dict[str, str] = {block.name: block.code for page in PAGES for block in blocks(page) if block.name}
"""The examples that are files, by name; README and docs give those that both have alike."""
