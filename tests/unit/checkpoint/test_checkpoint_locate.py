"""Every way of naming a checkpoint finds it; an incomplete one is never found."""

from __future__ import annotations

from pathlib import Path

import pytest

from pirl.checkpoint.locate import has_checkpoint, newest_step, resolve_checkpoint, step_folders
from pirl.checkpoint.manifest import write_manifest
from pirl.errors import CheckpointError


def a_step(run: Path, name: str, *, complete: bool = True) -> Path:
    step = run / "checkpoints" / name
    (step / "pretrained_model").mkdir(parents=True)
    (step / "pretrained_model" / "train_config.json").write_text("{}")
    if complete:
        write_manifest(step)
    return step


def a_run(root: Path, *, link: str | None = "000012") -> Path:
    run = root / "run"
    for name in ("000004", "000012"):
        a_step(run, name)
    if link is not None:
        (run / "checkpoints" / "last").symlink_to(link)
    return run


@pytest.mark.parametrize(
    "suffix",
    [
        ".",
        "checkpoints",
        "checkpoints/last",
        "checkpoints/last/pretrained_model",
        "checkpoints/last/pretrained_model/train_config.json",
        "checkpoints/000012",
        "checkpoints/000012/pretrained_model",
        "checkpoints/000012/pretrained_model/train_config.json",
    ],
)
@pytest.mark.parametrize("link", ["000012", "000004", "000099", None])
def test_every_path_that_means_the_newest_step_finds_it(
    tmp_path: Path, suffix: str, link: str | None
) -> None:
    """Also when the link is one step behind, dangling or lost."""
    run = a_run(tmp_path, link=link)
    assert resolve_checkpoint(run / suffix) == run / "checkpoints" / "000012"


def test_an_older_step_is_found_by_its_own_name(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    config = run / "checkpoints/000004/pretrained_model/train_config.json"
    assert resolve_checkpoint(config) == run / "checkpoints" / "000004"


def test_a_copied_step_folder_is_found_by_its_manifest(tmp_path: Path) -> None:
    copied = a_step(tmp_path, "000004").rename(tmp_path / "best")
    assert resolve_checkpoint(copied / "pretrained_model") == copied


def test_steps_are_ordered_by_number_not_by_text(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for name in ("999999", "1000000"):
        a_step(run, name)
    assert resolve_checkpoint(run).name == "1000000"
    assert list(step_folders(run / "checkpoints")) == [4, 12, 999999, 1000000]


def test_an_incomplete_step_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = a_run(tmp_path)
    a_step(run, "000016", complete=False)
    a_step(run, ".tmp-000020-1")
    assert resolve_checkpoint(run).name == "000012"
    assert "000016" in caplog.text


def test_a_link_that_is_behind_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resolve_checkpoint(a_run(tmp_path, link="000004"))
    assert "does not point at the newest" in caplog.text


def test_no_complete_step_is_an_error_that_lists_the_incomplete_ones(tmp_path: Path) -> None:
    a_step(tmp_path, "000004", complete=False)
    with pytest.raises(CheckpointError) as caught:
        newest_step(tmp_path / "checkpoints")
    assert caught.value.parts == ("000004: no manifest.json",)


@pytest.mark.parametrize("path", ["nowhere", ".", "nowhere/000004", "file.json"])
def test_anything_else_is_refused_with_what_is_accepted(tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint") as caught:
        resolve_checkpoint(tmp_path / path)
    assert "train_config.json" in caught.value.parts[0]


def test_a_run_has_a_checkpoint_once_a_step_is_complete_with_or_without_the_link(tmp_path: Path):
    assert not has_checkpoint(tmp_path)
    a_step(tmp_path, "000001", complete=False)
    assert not has_checkpoint(tmp_path)
    a_step(tmp_path, "000002")
    assert has_checkpoint(tmp_path)
