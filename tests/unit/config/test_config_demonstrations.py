"""What a data set of demonstrations must be, told from its own small files before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from config_builders import EMBEDDED, refused_by_command
from pyarrow.parquet import write_table

from pirl.config.check import check_config
from pirl.config.demonstrations import content_digest
from pirl.config.load import load_config

PICTURE, STATE, ACTION = "observation.images.image", "observation.state", "action"
FEATURES = {
    PICTURE: {"dtype": "image", "shape": [64, 64, 3], "names": ["height", "width", "channels"]},
    STATE: {"dtype": "float32", "shape": [4], "names": None},
    ACTION: {"dtype": "float32", "shape": [4], "names": None},
}


def a_data_set(folder: Path, *, lengths: tuple[int, ...] = (6, 9), **info: object) -> Path:
    """The files under `meta/` that are looked at, and a file of data."""
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    (folder / "data").mkdir()
    content = {"codebase_version": "v3.0", "fps": 16, "features": FEATURES, **info}
    (folder / "meta/info.json").write_text(json.dumps(content))
    rows = {"episode_index": list(range(len(lengths))), "length": list(lengths)}
    write_table(pa.table(rows), folder / "meta/episodes/chunk-000/file-000.parquet")
    (folder / "data/file.parquet").write_bytes(b"rows")
    return folder


def imitating(folder: Path, *more: str) -> list[str]:
    data = ["--dataset.repo_id=local/demos", f"--dataset.root={folder}"]
    return ["--pirl.bc_weight=0.1", *data, *more]


def features(**changed: object) -> dict[str, object]:
    """The features with some replaced, or left out by None."""
    names = {"picture": PICTURE, "state": STATE, "action": ACTION}
    found = FEATURES | {names[name]: value for name, value in changed.items()}
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    "names", [["height", "width", "channels"], ["channels", "height", "width"]]
)
def test_a_data_set_that_fits_is_accepted_wherever_its_channels_are(tmp_path, names):
    shape = [{"height": 64, "width": 64, "channels": 3}[name] for name in names]
    picture = {"dtype": "video", "shape": shape, "names": names}
    folder = a_data_set(tmp_path / "data", features=features(picture=picture))
    assert check_config(EMBEDDED, imitating(folder)).cfg.pirl.bc_weight == 0.1
    assert check_config(EMBEDDED, imitating(folder, "--dataset.episodes=[1]")).cfg.dataset


@pytest.mark.parametrize(
    ("changed", "field", "part"),
    [
        ({"picture": None}, f"dataset.root ({PICTURE})", "[3, 64, 64]"),
        (
            {"picture": {"dtype": "image", "shape": [32, 64, 3], "names": ["height"]}},
            f"dataset.root ({PICTURE})",
            "[3, 64, 64]",
        ),
        ({"state": {"dtype": "float32", "shape": [8]}}, f"dataset.root ({STATE})", "[4]"),
        ({"action": {"dtype": "float32", "shape": [7]}}, f"dataset.root ({ACTION})", "[4]"),
    ],
)
def test_a_data_set_of_another_robot_is_refused_by_feature(tmp_path, changed, field, part):
    folder = a_data_set(tmp_path / "data", features=features(**changed))
    (error,) = refused_by_command(EMBEDDED, imitating(folder)).items()
    assert error[0] == field
    assert part in error[1].expected


@pytest.mark.parametrize(
    ("more", "lengths", "field", "part"),
    [
        ([], (3, 2), "policy.chunk_size", "at most 3"),
        (["--dataset.episodes=[1]"], (9, 2), "policy.chunk_size", "at most 2"),
        (["--dataset.episodes=[2]"], (9, 9), "dataset.episodes", "0 to 1"),
        (["--dataset.episodes=[]"], (9, 9), "dataset.episodes", "0 to 1"),
        ([], (), "dataset.root", "no episode"),
    ],
)
def test_episodes_that_hold_no_chunk_are_refused(tmp_path, more, lengths, field, part):
    folder = a_data_set(tmp_path / "data", lengths=lengths)
    errors = refused_by_command(EMBEDDED, imitating(folder, *more))
    assert part in errors[field].expected


def test_a_data_set_without_a_folder_is_refused_because_nothing_is_fetched():
    errors = refused_by_command(EMBEDDED, imitating(Path("x"))[:2])
    assert "fetched" in errors["dataset.root"].expected


def damaged(folder: Path, how: str) -> Path:
    if how == "absent":
        return folder
    a_data_set(folder)
    if how == "old":
        (folder / "meta/info.json").write_text('{"codebase_version": "v2.1"}')
    elif how == "no JSON":
        (folder / "meta/info.json").write_text("{")
    elif how == "no features":
        (folder / "meta/info.json").write_text('{"codebase_version": "v3.0"}')
    else:
        (folder / "meta/episodes/chunk-000/file-000.parquet").write_bytes(b"PAR1")
    return folder


@pytest.mark.parametrize("how", ["absent", "old", "no JSON", "no features", "no table"])
def test_what_is_no_data_set_is_refused_with_the_reason_and_nothing_is_made(tmp_path, how):
    folder = damaged(tmp_path / "data", how)
    errors = refused_by_command(EMBEDDED, imitating(folder))
    assert set(errors) == {"dataset.root"}
    assert "LeRobotDataset v3.0" in errors["dataset.root"].expected
    assert folder.exists() is (how != "absent")


def test_an_actor_has_no_demonstrations_and_the_same_hash_wherever_they_lie(tmp_path):
    here = load_config(EMBEDDED, imitating(tmp_path / "here"))
    there = load_config(EMBEDDED, imitating(tmp_path / "there"))
    assert here.identity == there.identity
    assert here.identity != load_config(EMBEDDED).identity


def test_the_digest_is_of_names_and_bytes_of_the_content_alone(tmp_path):
    first = a_data_set(tmp_path / "first")
    second = a_data_set(tmp_path / "second")
    digest = content_digest(first)
    (second / "README.md").write_text("a copy")
    assert content_digest(second) == digest
    (second / "data/file.parquet").write_bytes(b"other")
    assert content_digest(second) != digest
    (second / "data/file.parquet").write_bytes(b"rows")
    (second / "data/file.parquet").rename(second / "data/file-1.parquet")
    assert content_digest(second) != digest
