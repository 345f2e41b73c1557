"""`pirl bench` with a folder that is missing, damaged or in use."""

from __future__ import annotations

import json

import pytest

from pirl.cli import dispatch
from pirl.errors import ExitCode
from pirl.guard import run_guarded
from pirl.learning import main as bench
from pirl.ownership import contents, owned


@pytest.fixture
def never_runs(monkeypatch):
    """Fails when a learning run would start."""

    def start(*_: object, **__: object) -> None:
        raise AssertionError("a run started")

    monkeypatch.setattr(bench, "run_learning", start)
    monkeypatch.setattr(bench, "run_study", start)


def judged(folder, capsys) -> tuple[int, str]:
    code = run_guarded(dispatch, ["bench", "judge", str(folder)])
    shown = capsys.readouterr().err
    assert "unexpected" not in shown
    return code, shown


def test_judging_a_folder_that_is_not_there_is_a_wrong_argument(tmp_path, capsys):
    code, shown = judged(tmp_path / "nowhere", capsys)
    assert code == ExitCode.USAGE
    assert "learn.json" in shown


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b"[" * 100_000, b"{}", b'{"settings": 3}', b'{"settings": {"x": 1}}',
                b'{"settings": {}}'],
    ids=range(8),
)  # fmt: skip
def test_judging_a_damaged_record_is_one_error(content, tmp_path, capsys):
    (tmp_path / "learn.json").write_bytes(content)
    code, shown = judged(tmp_path, capsys)
    assert code in (ExitCode.CHECK_FAILED, ExitCode.USAGE)
    assert shown.startswith("error: ")


@pytest.mark.usefixtures("never_runs")
@pytest.mark.parametrize("command", [["learn", "--no-mlflow"], ["study", "seeds", "--no-mlflow"]])
def test_a_folder_in_use_is_refused_and_untouched(command, tmp_path, capsys):
    (tmp_path / "record").write_text("mine")
    with owned(tmp_path, field="test"):
        assert run_guarded(dispatch, ["bench", *command, "--out", str(tmp_path)]) == ExitCode.USAGE
    assert "--out" in capsys.readouterr().err
    assert [p.name for p in contents(tmp_path)] == ["record"]


@pytest.mark.usefixtures("never_runs")
def test_a_finished_run_is_not_run_over(tmp_path, capsys):
    (tmp_path / "learn.json").write_text(json.dumps({}))
    argv = ["learn", "--no-mlflow", "--out", str(tmp_path)]
    assert run_guarded(dispatch, ["bench", *argv]) == ExitCode.USAGE
    assert "a new or empty folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["learn.json"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b"learn: 3", b"learn: {seed: [1]}", b"a: &a [*a]"]
)
def test_damaged_parameters_are_one_error(content, tmp_path, capsys):
    (tmp_path / "params.yaml").write_bytes(content)
    argv = [
        "learn",
        "--no-mlflow",
        "--params",
        str(tmp_path / "params.yaml"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert run_guarded(dispatch, ["bench", *argv]) == ExitCode.USAGE
    shown = capsys.readouterr().err
    assert "params" in shown or "learn" in shown
    assert not (tmp_path / "o").exists()
