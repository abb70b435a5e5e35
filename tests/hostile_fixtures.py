"""Fixtures of the tests of hostile files; a module that uses them names this one in ``pytest_plugins``."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_helpers import Command, exit_code
from hostile_helpers import TINY, Folder, assert_clear, guarded, tree

from attribench.plugins.registry import METHODS, TASKS
from attribench.running.execution import Execution
from attribench.running.runner import Runner


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder; nothing may explode there."""
    monkeypatch.chdir(tmp_path)
    with guarded(2048):
        yield tmp_path
    assert not (tmp_path / "exploded").exists()


@pytest.fixture
def cli(command: Command) -> Command:
    """Run the command line, which may not take much memory or time."""
    list(METHODS), list(TASKS)

    def call(*arguments: str) -> tuple[int, str, str]:
        with guarded(1024):
            return command(*arguments)

    return call


@pytest.fixture
def refused(cli: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Assert that a command is refused with one clear line and does nothing; return the line."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was done")

    for owner, name in ((Runner, "problem"), (Runner, "perform"), (Runner, "rescore"), (Execution, "cells")):
        monkeypatch.setattr(owner, name, refuse)
    set_num_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: set_num_threads(n) if n < 1000 else refuse())

    def call(*arguments: str) -> str:
        before = tree(Path())
        code, out, err = cli(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert_clear(err[:-1])
        assert len(err) < 2000
        assert tree(Path()) == before
        return err

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the results of a tiny run and its cache of models."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert exit_code("run", *TINY) == 0
    return root


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Folder:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return Folder(tmp_path)


@pytest.fixture
def made_again(
    cli: Command, finished: Path, folder: Folder, caplog: pytest.LogCaptureFixture
) -> Callable[[Path], None]:
    """Assert that the run says what is damaged, and gives what it gave before; and that the next has nothing to do."""

    def call(path: Path) -> None:
        code, _, err = cli("run", *TINY)
        warnings = [record.getMessage() for record in caplog.records]
        assert code == 0, (err, warnings)
        assert any(str(path.relative_to(path.cwd())) in message for message in warnings), warnings
        for message in warnings:
            assert_clear(message)
        for name in ("scores.csv", "per_graph.csv", "layers.csv", "tasks.csv", "comparison.csv"):
            assert (folder.run / name).read_bytes() == (finished / "r" / name).read_bytes(), name
        before = Folder(finished).file("attributions").read_bytes()
        assert folder.file("attributions").read_bytes() == before
        caplog.clear()
        assert cli("run", *TINY)[0] == 0
        assert not caplog.records

    return call


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """Return a folder outside the results, whose files must stay as they are."""
    path = tmp_path / "precious"
    path.mkdir()
    for name in ("record.json", "log.txt", "scores.csv"):
        (path / name).write_text("precious")
    before = tree(path)
    yield path
    assert tree(path) == before
