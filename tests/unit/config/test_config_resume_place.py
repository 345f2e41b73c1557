"""A resume writes where its checkpoint lies, or is refused with both paths."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from config_builders import EMBEDDED, refused

from pirl.config.load import load_config, write_resolved


def a_run(root: Path) -> Path:
    """A run folder with one step; the config says where the run was started."""
    folder = root / "checkpoints" / "000003" / "pretrained_model"
    folder.mkdir(parents=True)
    (root / "checkpoints" / "last").symlink_to("000003")
    cfg = load_config(EMBEDDED, [f"--output_dir={root}"]).cfg
    return write_resolved(cfg, folder / "train_config.json")


@pytest.mark.parametrize("step", ["000003", "last"])
def test_a_copied_run_goes_on_in_the_copy(step: str, tmp_path: Path):
    a_run(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy", symlinks=True)
    file = tmp_path / "copy" / "checkpoints" / step / "pretrained_model" / "train_config.json"
    assert load_config(file, ["--resume=true"]).cfg.output_dir == tmp_path / "copy"
    # Without a resume the config means what it says.
    assert load_config(file).cfg.output_dir == tmp_path / "run"


def test_the_folder_of_the_checkpoint_may_be_said_in_any_way(tmp_path: Path, monkeypatch):
    file = a_run(tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    for said in (tmp_path / "run", Path("run"), Path("link"), Path("run/../run")):
        cfg = load_config(file, ["--resume=true", f"--output_dir={said}"]).cfg
        assert cfg.output_dir is not None
        assert cfg.output_dir.samefile(tmp_path / "run")


def test_another_folder_is_refused_with_both_paths(tmp_path: Path):
    file = a_run(tmp_path / "run")
    error = refused(file, ["--resume=true", f"--output_dir={tmp_path / 'other'}"])["output_dir"]
    assert error.value == str(tmp_path / "other")
    assert str(tmp_path / "run") in error.expected
    assert "copy" in error.fix


def test_a_step_that_lies_in_no_run_is_refused(tmp_path: Path):
    file = a_run(tmp_path / "run")
    shutil.copytree(file.parents[1], tmp_path / "lone" / "000003")
    alone = tmp_path / "lone" / "000003" / "pretrained_model" / "train_config.json"
    for more in ([], [f"--output_dir={tmp_path / 'run'}"]):
        error = refused(alone, ["--resume=true", *more])["output_dir"]
        assert str(tmp_path / "lone") in error.expected
        assert "RUN/checkpoints" in error.fix


def test_the_place_of_a_run_is_no_part_of_its_identity(tmp_path: Path):
    file = a_run(tmp_path / "run")
    assert load_config(file, ["--resume=true"]).identity.hash == load_config(file).identity.hash
