"""Which episodes become videos, and what the command refuses before it loads anything."""

from __future__ import annotations

import numpy as np
import pytest
from eval_builders import plans, record

from pirl.errors import ExitCode
from pirl.evaluation import videos
from pirl.evaluation.main import main
from pirl.evaluation.videos import VideoKeeper
from pirl.guard import run_guarded
from pirl.runtime.lockstep import FinishedEpisode

FRAME = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)


@pytest.fixture(autouse=True)
def no_encoder(monkeypatch):
    def write(path, frames, *, fps):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"video")
        path.with_suffix(".png").write_bytes(b"picture")

    monkeypatch.setattr(videos, "write_video", write)


def kept(root, *, won, order, per_task=1, frames=2):
    """Episode ids kept when episodes end in the given order."""
    keeper = VideoKeeper(root=root, plans=plans(), per_task=per_task)
    for i in order:
        done = record(plans()[i], success=i in won)
        keeper.see(FinishedEpisode(transitions=[], record=done, frames=[FRAME] * frames))
    found = keeper.finish()
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == sorted(video["file"] for video in found)
    return [video["episode_id"] for video in found]


@pytest.mark.parametrize("order", [range(6), range(5, -1, -1), (4, 2, 0, 5, 3, 1)])
@pytest.mark.parametrize(
    ("won", "wanted"),
    [
        # Tasks are episodes {0, 1}, {2, 3, 4} and {5}.
        (set(), [0, 2, 5]),
        ({0, 2}, [0, 1, 2, 3, 5]),
        ({0, 1, 2, 3, 4, 5}, [0, 2, 5]),
        ({2, 3, 5}, [0, 2, 4, 5]),
    ],
)
def test_the_first_episodes_are_kept_and_a_failure_if_there_was_one(tmp_path, won, wanted, order):
    assert kept(tmp_path, won=won, order=order) == wanted


def test_more_videos_show_a_failure_by_themselves(tmp_path):
    assert kept(tmp_path, won={0, 2, 4}, order=range(6), per_task=2) == [0, 1, 2, 3, 5]


def test_an_episode_of_one_frame_is_no_video(tmp_path):
    assert kept(tmp_path, won=set(), order=range(6), frames=1) == []


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--policy_path"),
        (["--policy_path", "nowhere"], "--policy_path = 'nowhere'"),
        (["--policy_path", "."], "no train_config.json beside the weights"),
        (["--policy_path", "x", "--policy.n_action_steps=3"], "of the checkpoint's config.json"),
        (["--verify", "a", "--policy_path", "b"], "alone"),
        (["--verify", "/dev/null"], "not a folder"),
        (["--compare", ".", "nowhere"], "nowhere is not a folder"),
        (["--compare", "a", "b", "--env.task=libero_10"], "alone"),
    ],
)
def test_a_command_line_that_says_too_little_or_too_much_is_refused(capsys, argv, named):
    assert run_guarded(main, argv) == ExitCode.USAGE
    caught = capsys.readouterr()
    assert named in caught.err
    assert caught.out == ""


@pytest.mark.parametrize("count", ["-1", "many"])
def test_a_count_that_is_none_is_refused(count):
    assert run_guarded(main, ["--policy_path", "x", "--episodes-per-task", count]) == ExitCode.USAGE
