"""A result folder in use is refused before a policy is built; a full disk costs one error and no record."""

from __future__ import annotations

import json
import shutil

import pytest
from eval_builders import a_folder, plans

from pirl.errors import ConfigError, EnvironmentNotReadyError, ExitCode
from pirl.evaluation import folder as folders
from pirl.evaluation import main as evaluation
from pirl.evaluation.folder import create_folder, require_new
from pirl.evaluation.verify import verify_folder
from pirl.guard import run_guarded
from pirl.ownership import LOCK_NAME, owned

CONFIG = "configs/train_config_pirl_embedded.json"


@pytest.fixture
def never_built(monkeypatch):
    """Fails when a policy would be built."""

    def build(*_: object, **__: object) -> None:
        raise AssertionError("a policy was built")

    monkeypatch.setattr(evaluation, "prepare", build)


@pytest.mark.usefixtures("never_built")
def test_a_result_folder_in_use_is_refused_first(tmp_path, capsys):
    argv = ["--policy_path", "x", "--config_path", CONFIG, "--out", str(tmp_path / "out")]
    with owned(tmp_path / "out", field="test"):
        assert run_guarded(evaluation.main, argv) == ExitCode.USAGE
    shown = capsys.readouterr().err
    assert "--out" in shown
    assert "pid " in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("never_built")
def test_a_result_folder_that_is_taken_is_refused_first(tmp_path, capsys):
    root = a_folder(tmp_path / "out")
    argv = ["--policy_path", "x", "--config_path", CONFIG, "--out", str(root)]
    assert run_guarded(evaluation.main, argv) == ExitCode.USAGE
    assert "a new or empty folder" in capsys.readouterr().err
    assert not (root / LOCK_NAME).exists()


def test_an_owned_folder_is_empty_and_its_lock_disturbs_no_figure(tmp_path):
    root = tmp_path / "a"
    with owned(root, field="--out"):
        require_new(root)
        create_folder(root, plans())
        with pytest.raises(ConfigError):
            require_new(root)
        shutil.copytree(a_folder(tmp_path / "b"), root, dirs_exist_ok=True)
        (root / "run.json").write_text(json.dumps({"role": "eval"}))
        verify_folder(root)


def test_room_for_videos_is_asked_before_the_first_episode(tmp_path, monkeypatch):
    monkeypatch.setattr("pirl.files.free_bytes", lambda _: 2**20)
    create_folder(tmp_path / "few", plans())
    with pytest.raises(EnvironmentNotReadyError, match="8 videos") as caught:
        create_folder(tmp_path / "many", plans(), videos=8)
    assert "--videos" in str(caught.value)
    assert not (tmp_path / "many" / folders.SCHEDULE).exists()
