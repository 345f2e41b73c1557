"""What an installer and a checker are told: extras, pins, layers, strictness."""

import hashlib
import re
import tomllib
from pathlib import Path

import griffe

import pirl

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_python_is_3_12_for_every_tool():
    assert (ROOT / ".python-version").read_text().strip() == "3.12"
    assert PROJECT["project"]["requires-python"] == ">=3.12,<3.13"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py312"
    assert PROJECT["tool"]["pyright"]["pythonVersion"] == "3.12"


def test_the_extras_exist_and_simulators_are_not_required():
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras) == {"libero", "assets", "metaworld", "docs", "dev"}
    required = " ".join(PROJECT["project"]["dependencies"])
    assert "libero" not in required
    assert "metaworld" not in required


def test_pins_that_break_simulators_or_prefect_when_they_move_are_kept():
    required = PROJECT["project"]["dependencies"]
    assert "mujoco==3.8.1" in required
    # 3.8 admits FastAPI releases that break its server.
    assert "prefect>=3.9,<3.10" in required


def test_constraints_are_exact_versions_and_name_no_registry():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 100
    odd = [
        line for line in pins if not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.!+]+( ;.*)?", line)
    ]
    assert odd == []
    assert not any("://" in line for line in lines)


def test_the_type_checker_is_strict_on_the_library():
    pyright = PROJECT["tool"]["pyright"]
    assert (pyright["include"], pyright["typeCheckingMode"]) == (["pirl"], "strict")
    # Values of packages without stubs; everything else that strict mode asks for is on.
    off = {name for name, value in pyright.items() if value is False}
    assert off == {
        "reportMissingTypeStubs",
        "reportUnknownMemberType",
        "reportUnknownArgumentType",
        "reportUnknownVariableType",
        "reportUnknownParameterType",
        "reportUnknownLambdaType",
    }


def test_every_package_of_the_library_has_its_layer():
    (layers,) = [c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    named = {name.strip() for layer in layers["layers"] for name in layer.split("|")}
    own = {f"pirl.{path.parent.name}" for path in (ROOT / "pirl").glob("*/__init__.py")}
    assert own <= named
    order = ["flows", "tasks", "pirl.runtime", "pirl.algorithm", "pirl.contract", "pirl.records"]
    found = [layer for layer in layers["layers"] if layer in order]
    assert [*found, "pirl.config", "pirl.errors"] == [*order, "pirl.config", "pirl.errors"]


def test_the_site_has_every_page_and_every_name_that_it_documents():
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = re.findall(r": ([\w/-]+\.md)$", site, re.MULTILINE)
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(pages) == sorted(written)
    package = griffe.load("pirl", search_paths=[ROOT], submodules=True)
    text = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: pirl\.([\w.]+)$", text, re.MULTILINE)
    assert {name.rpartition(".")[2] for name in named} >= set(pirl.__all__)
    for name in named:
        found = package[name]
        assert found.docstring is not None, name


def test_the_licence_is_the_standard_text_of_what_the_project_names():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["project"]["license"] == {"text": "Apache-2.0"}
    # Of the text without its blanks; as in the LICENSE files of other Apache-2.0 distributions.
    digest = hashlib.sha256("".join(text.split()).encode()).hexdigest()
    assert digest == "d374a4cc8aa82260dcdebc63d170c9c25d420bd97345b83b504a115c97a6e2f6"
