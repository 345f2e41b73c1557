"""LeRobot's own LIBERO steps, on one raw observation and on rows of actions."""

from __future__ import annotations

import numpy as np
import pytest

from pirl.policies.xvla.libero import libero_actions, policy_observation

MAIN, WRIST = "observation.images.image", "observation.images.image2"
TURNED = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=np.float32)
"""A quarter turn around z."""


def test_the_main_image_is_turned_and_the_state_is_position_rotation_and_zeros():
    images = {
        name: np.arange(24, dtype=np.uint8).reshape(3, 2, 4) + i
        for i, name in enumerate((MAIN, WRIST))
    }
    position = np.array([1, 2, 3], dtype=np.float32)
    seen, state = policy_observation(images, position=position, rotation=TURNED)
    assert list(seen) == [MAIN, WRIST]
    np.testing.assert_array_equal(seen[MAIN], images[MAIN][:, ::-1, ::-1])
    np.testing.assert_array_equal(seen[WRIST], images[WRIST])
    assert {image.dtype for image in seen.values()} == {np.dtype(np.uint8)}
    # The first two columns of the rotation, then zeros for gripper and second arm.
    assert state.tolist() == [1, 2, 3, 0, 1, 0, -1, 0, 0, *[0] * 11]
    assert state.dtype == np.float32


def test_the_arrays_of_a_simulator_need_not_be_contiguous():
    rotation = np.asfortranarray(TURNED)
    position = np.arange(6, dtype=np.float32)[::2]
    images = {MAIN: np.zeros((3, 2, 2), dtype=np.uint8)}
    _, state = policy_observation(images, position=position, rotation=rotation)
    assert state[:9].tolist() == [0, 2, 4, 0, 1, 0, -1, 0, 0]


def test_action_rows_become_position_axis_angle_and_a_closed_or_open_gripper():
    rows = np.zeros((2, 20), dtype=np.float32)
    rows[:, :3] = [0.1, 0.2, 0.3]
    rows[:, 3:9] = [0, 1, 0, -1, 0, 0]
    rows[:, 9] = [0.4, 0.6]
    actions = libero_actions(rows)
    assert actions.shape == (2, 7)
    assert actions[0] == pytest.approx([0.1, 0.2, 0.3, 0, 0, np.pi / 2, -1], abs=1e-6)
    assert actions[1, -1] == 1.0
