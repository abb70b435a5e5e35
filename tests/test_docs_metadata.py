"""Licences, version and citation say the same wherever they stand."""

import tomllib
from pathlib import Path

import attribench

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_licences_version_and_citation() -> None:
    project = PROJECT["project"]
    assert project["license"] == "MIT AND CC-BY-SA-4.0 AND PDDL-1.0 AND CC-BY-4.0"
    assert all((ROOT / name).is_file() for name in project["license-files"])
    assert not any(x.startswith("License ::") for x in project["classifiers"])
    assert "urls" not in project
    assert (ROOT / "attribench" / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["attribench"]
    assert project["version"] == attribench.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {attribench.__version__}\n" in citation
    assert attribench.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for task, licences in (("srl", ("CC BY-SA 4.0", "PDDL")), ("qa", ("CC BY 4.0", "MIT", "public domain", "PDDL"))):
        notice = (ROOT / "tasks" / task / "data" / "NOTICE").read_text(encoding="utf-8")
        assert all(licence in notice for licence in licences)
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
