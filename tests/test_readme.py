"""The README is short, has what it promises, and its example of a method works as printed."""

import re

from docs_helpers import ROOT, SAVED, TEXTS, blocks

README = ROOT / "README.md"
WORDS = 1200


def test_it_is_short() -> None:
    assert len(TEXTS[README].split()) <= WORDS


def test_a_method_is_there_in_full() -> None:
    examples = {block.name: block.code for block in blocks(README) if block.name}
    assert "saliency.py" in examples
    assert len([line for line in examples["saliency.py"].splitlines() if line.strip()]) <= 20
    assert examples.items() <= SAVED.items()  # as in docs/plugins.md


def test_there_is_a_place_for_a_model_of_ones_own() -> None:
    section = TEXTS[README].partition("\n## Your own model\n")[2].partition("\n## ")[0]
    assert section.strip()


def test_the_table_has_every_method_and_the_paper_beside_it() -> None:
    table = next(block.code for block in blocks(README) if "prec" in block.code)
    for method in ("erasure", "gnnexplainer", "graphmask", "integrated-gradients"):
        assert re.search(rf"^ {method} +\d", table, re.MULTILINE)
    assert "99.4" in next(line for line in table.splitlines() if line.startswith(" graphmask "))
