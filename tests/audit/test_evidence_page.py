"""The page about evidence says what the code says."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from pirl.audit.docs import PAGE, main, with_generated
from pirl.audit.policy import POLICY_VERSION
from pirl.audit.statement import FORMAT_VERSION

TEXT = (Path(__file__).parents[2] / PAGE).read_text(encoding="utf-8")


def test_generated_parts_are_what_the_code_gives():
    assert with_generated(TEXT) == TEXT


@pytest.fixture
def old_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PAGE.parent.mkdir()
    PAGE.write_text(TEXT.replace("| `path` | text |", "| `path` | number |"), encoding="utf-8")


@pytest.mark.usefixtures("old_page")
def test_the_command_writes_the_generated_parts():
    assert main([]) == 0
    assert PAGE.read_text(encoding="utf-8") == TEXT


@pytest.mark.usefixtures("old_page")
def test_the_module_is_a_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["docs"])
    with pytest.warns(RuntimeWarning), pytest.raises(SystemExit) as ended:
        runpy.run_module("pirl.audit.docs", run_name="__main__")
    assert ended.value.code == 0
    assert PAGE.read_text(encoding="utf-8") == TEXT


def test_page_names_format_and_policy():
    assert f"Format {FORMAT_VERSION} of the bundle, version {POLICY_VERSION} of the policy" in TEXT
