"""What `score` reads of a folder that a stranger sent: no path that the folder names."""

import json
from pathlib import Path
from typing import Any

import pytest

from attribench.base.errors import UserError
from attribench.plugins.registry import TASKS
from attribench.running.folder import read_plans


def stored(folder: Path, options: dict[str, Any], task: str = "srl-gnn") -> Path:
    """Write the run.json of one cell."""
    plan = {"tasks": [task], "methods": ["gate-values"], "overrides": options, "seeds": [0], "device": "cpu"}
    path = folder / "run.json"
    path.write_text(json.dumps({"schema": 2, "runs": [{"plan": plan, "cells": ["0" * 32]}]}))
    return path


def test_a_folder_of_data_has_to_be_named_by_the_user(tmp_path: Path) -> None:
    path = stored(tmp_path, {"srl-gnn": {"data_dir": "/nowhere"}})
    with pytest.raises(UserError, match=r"the run of srl-gnn was made with '/nowhere': give it with --data-dir if you"):
        read_plans(path, [])
    ((plan, _),) = read_plans(path, [], str(tmp_path))
    assert plan.configs()["srl-gnn"].data_dir == str(tmp_path)


def test_a_folder_in_a_variants_name_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, {}, "srl-gnn[data_dir=/nowhere]")
    with pytest.raises(UserError, match="--data-dir"):
        read_plans(path, [])
    with pytest.raises(UserError, match="no folder of data in the name of a variant"):
        read_plans(path, [], str(tmp_path))


def test_bundled_data_need_no_name(tmp_path: Path) -> None:
    ((plan, _),) = read_plans(stored(tmp_path, {"srl-gnn": {"epochs": 3}}), [])
    assert plan.configs()["srl-gnn"].epochs == 3


@pytest.mark.parametrize("name", ["train_file", "validation_file", "test_file", "vectors_file"])
@pytest.mark.parametrize("value", ["/etc/passwd", "../other.gz", "sub/folder.gz"])
def test_files_of_data_are_in_their_folder(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"expected {name} as the name of a file in the folder; got '{value}'"):
        read_plans(stored(tmp_path, {"srl-gnn": {name: value}}), [])
    assert TASKS["srl-gnn"].Config(**{name: "other.conll"}) is not None
