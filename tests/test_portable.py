"""A portable digest is of code alone: no version of a package or of Python is in it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attribench.base import closure, portable
from attribench.base.closure import code_digest
from attribench.base.errors import UserError
from attribench.base.portable import portable_digest

TASK = "import numpy as np\nfrom portable_sample.size import SIZE\nx = np.zeros(SIZE)\n"
SIZE = '"""How many."""\nSIZE = 1  # one\n'


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("portable_sample")]:
        del sys.modules[name]
    for function in (portable_digest, portable._digest, code_digest, closure._read):
        function.cache_clear()


@pytest.fixture(autouse=True)
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of a package ``portable_sample``; what is known of modules is forgotten around the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "portable_sample"
    folder.mkdir()
    for name, text in {"__init__": "", "task": TASK, "size": SIZE, "other": "x = 1\n"}.items():
        (folder / f"{name}.py").write_text(text)
    forget()
    yield folder
    forget()


def digest() -> str:
    forget()
    return portable_digest("portable_sample.task")


def test_it_is_of_what_is_imported_without_words(sample: Path) -> None:
    before = digest()
    (sample / "size.py").write_text('"""Words."""\nSIZE = (\n    1\n)\n')
    (sample / "other.py").write_text("x = 2\n")
    assert digest() == before
    (sample / "size.py").write_text(SIZE.replace("1", "2"))
    assert digest() != before


def test_files_that_are_loaded_by_name_count(sample: Path) -> None:
    (sample / "task.py").write_text(TASK + "beside = 'beside.py'\n")
    (sample / "beside.py").write_text("x = 1\n")
    before = digest()
    (sample / "beside.py").write_text("x = 2\n")
    assert digest() != before


def test_versions_of_packages_are_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before, with_versions = digest(), code_digest("portable_sample.task")
    installed = closure._installed

    def newer(path: Path, name: str) -> str | None:
        found = installed(path, name)
        return None if found is None else f"{found}.1"

    for module in (closure, portable):
        monkeypatch.setattr(module, "_installed", newer)
    assert digest() == before
    assert code_digest("portable_sample.task") != with_versions


def test_fields_that_some_versions_of_python_have_and_show_are_not_in_it() -> None:
    old, new = (ast.parse("def f(x, *, y=None):\n    return [], 'é', None, x\n") for _ in range(2))
    function = new.body[0]
    function._fields = (*(x for x in function._fields if x != "type_comment"), "new_in_some_version")  # type: ignore[misc]
    function.new_in_some_version = []  # type: ignore[attr-defined]
    assert portable._dump(old) == portable._dump(new)
    assert "é" not in portable._dump(old)
    others = ("def f(x, *, y=0):\n    return [], 'é', None, x\n", "def f(x, *, y=None):\n    return [], 'é', 0, x\n")
    assert len({portable._dump(ast.parse(text)) for text in others} | {portable._dump(old)}) == 3


def test_a_module_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected the source of module 'portable_sample\.nowhere'"):
        portable_digest("portable_sample.nowhere")
