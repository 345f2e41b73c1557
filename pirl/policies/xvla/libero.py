"""X-VLA's own LIBERO processor steps, applied to one raw observation and to action rows.

Owns nothing but the call: LeRobot's steps do the work, so what piRL sees equals what `lerobot-eval`
feeds the policy, except that images stay uint8. Refuses to know the simulator. Used by
`pirl.envs.libero_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from lerobot.lerobot_types import EnvTransition, TransitionKey
from lerobot.policies.xvla.processor_xvla import (
    LiberoProcessorStep,
    XVLARotation6DToAxisAngleProcessorStep,
)

Array = np.ndarray[Any, np.dtype[Any]]

_OBSERVE = LiberoProcessorStep()
_ACT = XVLARotation6DToAxisAngleProcessorStep()


def policy_observation(
    images: Mapping[str, UInt8[Array, "3 h w"]],
    *,
    position: Float32[Array, " 3"],
    rotation: Float32[Array, "3 3"],
) -> tuple[dict[str, UInt8[Array, "3 h w"]], Float32[Array, " 20"]]:
    """Main image turned by 180 degrees; state of position, 6-D rotation and zeros."""
    raw: dict[str, Any] = {key: torch.from_numpy(image)[None] for key, image in images.items()}
    raw["observation.robot_state"] = {
        "eef": {
            "pos": torch.from_numpy(np.ascontiguousarray(position))[None],
            "mat": torch.from_numpy(np.ascontiguousarray(rotation))[None],
        }
    }
    seen: dict[str, torch.Tensor] = _OBSERVE.observation(raw)
    return {key: seen[key][0].numpy() for key in images}, seen["observation.state"][0].numpy()


def libero_actions(rows: Float32[Array, "N 20"]) -> Float32[Array, "N 7"]:
    """Position, 6-D rotation and gripper probability to position, axis-angle and -1 or 1."""
    transition = cast(EnvTransition, {TransitionKey.ACTION: torch.from_numpy(rows)})
    converted = _ACT(transition)[TransitionKey.ACTION]
    assert isinstance(converted, torch.Tensor)
    return converted.numpy()
