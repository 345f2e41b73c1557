"""Which observations an X-VLA policy accepts, and how many tokens an image of it has.

Owns the refusals of observations that LeRobot would silently cut, skip or mistake. Refuses to
normalise, pad or encode. Read `pirl.policies.xvla.policy` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lerobot.policies.xvla.configuration_xvla import XVLAConfig
from lerobot.policies.xvla.modeling_xvla import XVLAModel

from pirl.contract.clauses import broken
from pirl.policies.xvla.views import is_empty
from pirl.records import Observation

INPUT_IDS, DOMAIN_ID = "input_ids", "domain_id"
"""What X-VLA reads besides pictures and state (`FlowPolicy.inputs`)."""


def real_cameras(config: XVLAConfig) -> list[str]:
    """The policy's cameras in its order, without the empty ones."""
    return [key for key in config.image_features if not is_empty(key)]


def seen_views(observation: Observation) -> list[str]:
    """Cameras of an observation whose pixels count."""
    return [key for key in observation.images if not is_empty(key)]


def check_observation(observation: Observation, *, cameras: Sequence[str], state_dim: int) -> None:
    """Refuse an observation of another robot.

    Raises:
        ContractError: unknown or no cameras, images that are not raw uint8, or a wider state.
    """
    views = set(seen_views(observation))
    if not views or not views <= set(cameras):
        raise broken(
            "observation",
            value=sorted(observation.images),
            expected=f"one or more of the policy's cameras {list(cameras)}",
            fix="match the environment's camera names with policy.input_features",
        )
    wrong = {
        key: str(image.dtype)
        for key, image in observation.images.items()
        if image.dtype != torch.uint8
    }
    if wrong:
        raise broken(
            "observation",
            value=wrong,
            expected="raw uint8 images",
            fix="do not scale or normalise images before the policy",
        )
    if observation.state.shape[-1] > state_dim:
        raise broken(
            "observation",
            value=observation.state.shape[-1],
            expected=f"at most {state_dim} state entries (policy.max_state_dim)",
            fix="LeRobot would cut the state silently; raise policy.max_state_dim",
        )


def check_image_size(model: XVLAModel, size: tuple[int, int], *, tokens: int) -> None:
    """Refuse images that have another token count than the policy declares.

    Raises:
        ContractError: the count differs; critic and positions are sized by it.
    """
    found = tokens_per_view(model, size)
    if found != tokens:
        raise broken(
            "observation",
            value=f"images of {size[0]} x {size[1]} pixels, {found} image tokens",
            expected=f"{tokens} tokens, from the size in policy.input_features",
            fix="render images of that size, or set policy.resize_imgs_with_padding",
        )


def declared_view_shape(model: XVLAModel) -> tuple[int, int]:
    """(tokens, width) of one view at the size that the config declares."""
    config = model.config
    size = config.resize_imgs_with_padding or next(iter(config.image_features.values())).shape[1:]
    florence: Any = model.vlm.config
    tokens = tokens_per_view(model, (int(size[0]), int(size[1])))
    return tokens, int(florence.vision_config.projection_dim)


def tokens_per_view(model: XVLAModel, size: tuple[int, int]) -> int:
    """DaViT's grid for images of `size` (height, width), plus one pooled token."""
    florence: Any = model.vlm.config
    vision = florence.vision_config
    rows, columns = size
    for patch, stride, padding in zip(
        vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True
    ):
        rows = (rows + 2 * padding - patch) // stride + 1
        columns = (columns + 2 * padding - patch) // stride + 1
    return rows * columns + 1
