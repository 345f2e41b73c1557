"""How many views an X-VLA network has: cameras, empty cameras and padding, each counted once.

Owns the count. LeRobot adds a feature `empty_camera_N` per empty camera when it builds a policy, saves it,
and counts it again on loading: one more padded view than the weights were trained with, and other actions.
Needs no LeRobot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

EMPTY_CAMERA_PREFIX = "observation.images.empty_camera_"
"""LeRobot's name of a view that is padding by declaration; its pixels are never read."""


def is_empty(name: str) -> bool:
    """Whether a camera's pixels are never read."""
    return name.startswith(EMPTY_CAMERA_PREFIX)


def counted_once(names: Iterable[str], empty_cameras: int) -> Iterator[str]:
    """`names` without the features that `empty_cameras` stands for."""
    return (name for name in names if not _is_added(name, empty_cameras))


def _is_added(name: str, empty_cameras: int) -> bool:
    index = name.removeprefix(EMPTY_CAMERA_PREFIX)
    # As LeRobot writes it, without a leading zero; nine digits are more cameras than any policy has.
    is_number = index != name and index.isdecimal() and len(index) <= 9
    return is_number and f"{int(index)}" == index and int(index) < empty_cameras


def view_count(policy: Any) -> int:
    """Views of the network that is built of a policy config (either of the two `XVLAConfig`)."""
    features: dict[str, Any] = policy.input_features or {}
    visual = [name for name, feature in features.items() if feature.type.name == "VISUAL"]
    empty = int(policy.empty_cameras)
    return max(policy.num_image_views or 0, len(list(counted_once(visual, empty))) + empty)


def count_views_once(policy: Any) -> None:
    """Make LeRobot's own count of a policy config, in place, the one of `view_count`."""
    policy.num_image_views = view_count(policy)
    features: dict[str, Any] = policy.input_features or {}
    kept = counted_once(features, int(policy.empty_cameras))
    policy.input_features = {name: features[name] for name in kept}
