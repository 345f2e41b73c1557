"""pirl as a library: the names of a notebook, and the example that collects and updates."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import pirl

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", pirl.__all__)
def test_every_name_is_there_and_is_the_one_of_its_module(name):
    found = getattr(pirl, name)
    assert found.__name__ == name
    assert found.__module__.startswith("pirl.")


def test_there_are_ten_names_and_no_other():
    assert len(pirl.__all__) == len(set(pirl.__all__)) == 10
    with pytest.raises(AttributeError, match="no attribute 'build_sesion'"):
        getattr(pirl, "build_sesion")  # noqa: B009 - the name that is not there is the point


def test_importing_pirl_imports_nothing_of_it():
    program = "import sys, pirl; sys.exit(str([m for m in sys.modules if m.startswith('pirl.')]))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.integration
def test_the_example_collects_from_the_embedded_task_and_updates_once(monkeypatch, capsys):
    pytest.importorskip("metaworld")
    monkeypatch.chdir(ROOT)
    ran = runpy.run_path("examples/collect_and_update.py")
    said = capsys.readouterr().out
    assert ran["algorithm"].updates == 1
    assert len(ran["transitions"]) >= 8
    assert f"{len(ran['transitions'])} decisions" in said
    assert "1 update; losses {" in said
