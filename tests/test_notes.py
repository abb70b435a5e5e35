"""What is noted in the user's cache folder saves work and decides nothing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from attribench.base import closure, notes, packages, source
from attribench.base.closure import code_digest
from attribench.base.notes import read_note, write_note


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let this test's notes have a folder of their own."""
    monkeypatch.setattr(notes, "notes_folder", lambda: tmp_path / "notes")
    return tmp_path / "notes"


def forget() -> None:
    """Forget what was noted and read, as a new process would."""
    for function in (code_digest, closure._read, closure._installed, source._known, packages._distributions):
        function.cache_clear()
    source._new.clear()
    importlib.invalidate_caches()


@pytest.fixture(autouse=True)
def nothing_left(cache_folder: Path) -> Iterator[None]:
    yield
    forget()


def test_a_note_is_read_as_it_was_written_and_no_other_is(cache_folder: Path) -> None:
    assert read_note("x") is None
    write_note("x", {"a": [1, "\udc80"]})
    assert read_note("x") == {"a": [1, "\udc80"]}
    assert [path.name for path in cache_folder.iterdir()] == ["x.json"]
    good = (cache_folder / "x.json").read_text()
    for bad in ("", "[]", good[:-9], good.replace("1", "2", 1), good.replace("[1,", "[2,"), "[" * 100_000):
        assert bad != good
        (cache_folder / "x.json").write_text(bad)
        assert read_note("x") is None
    (cache_folder / "y.json").write_text(good)  # another's place
    assert read_note("y") is None
    (cache_folder / "x.json").unlink()
    (cache_folder / "other").write_text(good)
    (cache_folder / "x.json").symlink_to(cache_folder / "other")
    assert read_note("x") is None
    write_note("x", 5)  # which replaces the link
    assert (read_note("x"), (cache_folder / "other").read_text()) == (5, good)


def test_without_a_folder_nothing_is_noted_and_nothing_fails(cache_folder: Path) -> None:
    cache_folder.write_text("a file")
    write_note("x", 1)
    assert read_note("x") is None
    assert cache_folder.read_text() == "a file"


def test_drafts_of_killed_processes_are_removed_when_they_are_old(cache_folder: Path) -> None:
    write_note("x", 1)
    for name in (".draft-old", ".draft-new"):
        (cache_folder / name).write_text("half")
    os.utime(cache_folder / ".draft-old", (0, 0))
    write_note("y", 1)
    assert sorted(path.name for path in cache_folder.iterdir()) == [".draft-new", "x.json", "y.json"]


SAMPLE = {
    "notes_sample.py": "import notes_sample_beside\nfrom sklearn.metrics import f1_score\n",
    "notes_sample_beside.py": "X = 1\n",
}


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[str, int]]:
    """Return a function that returns a digest as a new process would, and how many sources were parsed for it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in SAMPLE.items():
        (tmp_path / name).write_text(text)
    parsed: list[bytes] = []
    parse = source.parse

    def counted(content: bytes) -> source.Source:
        parsed.append(content)
        return parse(content)

    monkeypatch.setattr(source, "parse", counted)

    def digest() -> tuple[str, int]:
        forget()
        parsed.clear()
        return code_digest("notes_sample"), len(parsed)

    return digest


def test_a_source_is_parsed_once_for_all_processes(
    digest: Callable[[], tuple[str, int]], tmp_path: Path, cache_folder: Path
) -> None:
    first = digest()
    assert first[1] == 2
    assert digest() == (first[0], 0)
    (tmp_path / "notes_sample_beside.py").write_text("X = 2\n")
    edited = digest()
    assert edited == (edited[0], 1)
    assert edited[0] != first[0]
    (tmp_path / "notes_sample_beside.py").write_text("X = 1\n")
    assert digest() == (first[0], 0)


@pytest.mark.parametrize("harm", ["truncated", "edited", "folder", "not writable", "exchanged"])
def test_damaged_notes_give_no_other_key(harm: str, digest: Callable[[], tuple[str, int]], cache_folder: Path) -> None:
    first, _ = digest()
    path = cache_folder / "sources.json"
    text = path.read_text()
    if harm == "truncated":
        path.write_text(text[: len(text) // 2])
    elif harm == "edited":
        path.write_text(text.replace("notes_sample_beside", "notes_sample"))
    elif harm == "folder":
        path.unlink()
        path.mkdir()
    elif harm == "exchanged":
        path.write_bytes((cache_folder / "packages.json").read_bytes())
    else:
        for file in cache_folder.iterdir():
            file.unlink()
        cache_folder.rmdir()
        cache_folder.write_text("")
    assert digest() == (first, 2)


def test_notes_of_other_code_or_another_python_are_not_used(
    digest: Callable[[], tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = digest()
    monkeypatch.setattr(source, "_version", lambda: b"other")
    assert digest() == (first, 2)


def test_packages_are_those_of_importlib_and_known_until_something_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(version: str, package: str = "notes_sample_package") -> None:
        folder = tmp_path / "notes_sample-1.dist-info"  # the same name, as of an editable one
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: notes-sample\nVersion: {version}\n")
        (folder / "top_level.txt").write_text(f"{package}\n")
        importlib.invalidate_caches()

    def asked(package: str) -> str:
        packages._distributions.cache_clear()
        return packages.distributions_of(package)

    read: list[int] = []
    everything = importlib.metadata.packages_distributions

    def counted() -> Mapping[str, list[str]]:
        read.append(1)
        return everything()

    monkeypatch.setattr(importlib.metadata, "packages_distributions", counted)
    assert asked("sklearn") == f"scikit-learn {importlib.metadata.version('scikit-learn')}"
    assert asked("notes_sample_package") == "notes_sample_package"
    assert len(read) == 1
    install("1.0")
    assert asked("notes_sample_package") == "notes-sample 1.0"
    assert asked("numpy") == f"numpy {importlib.metadata.version('numpy')}"
    assert len(read) == 2
    install("2.0.1")
    assert asked("notes_sample_package") == "notes-sample 2.0.1"
    install("2.0.1", "another")
    assert asked("notes_sample_package") == "notes_sample_package"
