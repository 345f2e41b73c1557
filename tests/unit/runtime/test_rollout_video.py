"""Videos of updates: the first episode as its decisions saw it, every N updates, and no run that ends of one."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pirl.journal.media import inspect_video
from pirl.runtime import rollout_video
from pirl.runtime.rollout_video import RolloutVideos, frames_of, write_clip


def picture(value: int) -> torch.Tensor:
    image = torch.full((1, 3, 64, 64), value, dtype=torch.uint8)
    image[..., :32] = 255 - value
    return image


def transition(episode: int, chunk: int) -> dict:
    def state(value):
        return {
            "observation.images.image": picture(value),
            "observation.images.image2": picture(value + 1),
            "observation.state": torch.zeros(1, 4),
        }

    value = 10 * episode + chunk
    return {
        "state": state(value),
        "next_state": state(value + 1),
        "complementary_info": {
            "pirl_episode_id": torch.tensor([episode]),
            "pirl_chunk_idx": torch.tensor([chunk]),
        },
    }


def taken(*, success: bool = True):
    order = [(7, 1), (3, 2), (3, 0), (7, 0), (3, 1)]
    episodes = [
        SimpleNamespace(episode_id=e, task="libero_10/4", success=success and e == 3)
        for e in (7, 3)
    ]
    return SimpleNamespace(transitions=[transition(*key) for key in order], episodes=episodes)


def test_frames_are_the_decisions_of_one_episode_in_order_and_its_end():
    frames = frames_of(taken().transitions, 3)
    assert [int(frame[0, 63, 0]) for frame in frames] == [30, 31, 32, 33]
    assert frames[0].shape == (64, 128, 3)
    # The second camera stands to the right of the first.
    assert int(frames[0][0, 127, 0]) == 31


@pytest.mark.parametrize("success", [True, False])
def test_every_nth_update_leaves_one_small_mp4_that_says_how_it_ended(tmp_path, success):
    videos = RolloutVideos(tmp_path, every=2)
    found = [videos.see(update, taken(success=success)) for update in (1, 2, 3, 4)]
    word = "success" if success else "failure"
    names = [f"update-{update:06d}-libero_10-4-{word}.mp4" for update in (2, 4)]
    assert [path.name for path in found if path] == names
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == names
    clip = inspect_video(tmp_path / "videos" / names[0])
    assert (clip.width, clip.height, clip.frames) == (512, 256, 4)
    assert clip.spread > 50
    assert videos.counts == {"kept": 2, "lost": 0}


def test_off_is_off(tmp_path):
    videos = RolloutVideos(tmp_path, every=0)
    assert videos.see(10, taken()) is None
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_cannot_be_written_is_said_once_and_counted(tmp_path, caplog):
    (tmp_path / "videos").touch()
    videos = RolloutVideos(tmp_path, every=1)
    assert [videos.see(update, taken()) for update in (1, 2)] == [None, None]
    assert videos.counts == {"kept": 0, "lost": 2}
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 1
    assert said[0].startswith("no video of update 1: ")
    assert "runtime.video_every=0" in said[0]


def test_a_clip_that_broke_off_leaves_no_file_of_its_name(tmp_path, monkeypatch):
    frames = [np.zeros((64, 64, 3), dtype=np.uint8), np.zeros((64, 64), dtype=np.uint8)]
    with pytest.raises(Exception):  # noqa: B017 - the encoder's own
        write_clip(tmp_path / "a.mp4", frames)
    assert not (tmp_path / "a.mp4").exists()
    assert rollout_video.FPS > 0
