"""A bundle folder in use, or with a bundle in it, costs the one that is there nothing."""

from __future__ import annotations

import pytest

from pirl.errors import ConfigError, EvidenceError
from pirl.gate import session
from pirl.gate.session import open_gate
from pirl.ownership import owned


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The work folder of an earlier gate; a gate that gets past its folders fails the test."""

    def passed(*_: object, **__: object) -> None:
        raise AssertionError("the gate went on")

    monkeypatch.setattr(session, "choose_profile", passed)
    monkeypatch.chdir(tmp_path)
    work = tmp_path / "bundle.work"
    work.mkdir()
    (work / "kept").write_text("records")
    return work


def enter(tmp_path, **options) -> None:
    with open_gate(
        profile="embedded", variant="flow-sde", out=tmp_path / "bundle", launched_by="test", **options,
    ):  # fmt: skip
        pass


@pytest.mark.parametrize("options", [{}, {"replace": True}])
def test_a_bundle_that_another_gate_writes_is_left_alone(options, tmp_path, work):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "verdict.json").write_text("{}")
    with owned(work, field="test"), pytest.raises(ConfigError, match="--out"):
        enter(tmp_path, **options)
    assert (work / "kept").read_text() == "records"
    assert (tmp_path / "bundle" / "verdict.json").exists()


def test_a_finished_bundle_is_refused_before_its_work_is_removed(tmp_path, work):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "verdict.json").write_text("{}")
    with pytest.raises(EvidenceError, match="not empty"):
        enter(tmp_path)
    assert (work / "kept").read_text() == "records"
    with pytest.raises(AssertionError, match="went on"):
        enter(tmp_path, replace=True)
    assert not (tmp_path / "bundle").exists()
    assert not (work / "kept").exists()
