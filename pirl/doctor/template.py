"""The text of a config that `pirl init` writes: what it takes from the checkpoint, and a comment at each choice.

Owns the sections and their words. Refuses to judge: the text is checked as any config is. Read
`pirl.doctor.sizes` for the numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pirl.config.after_init import image_features
from pirl.config.kinds import policy_facts
from pirl.config.rules_env import SIZES as BOUNDS
from pirl.doctor.profile import CAMERAS, CONTROL_MODE, EPISODE_LENGTH
from pirl.doctor.sizes import Sizes

EMBEDDED_LENGTH, ACTION_REPEAT = 95, 5
"""Time limit in simulator steps and simulator steps per action, as in the shipped configs."""

_IMAGES = "observation.images."
_COLUMN = 34
_PLAIN = re.compile(r"(?!(null|true|false)$)[A-Za-z][\w./-]*")


def config_text(
    source: str,
    policy: Any,
    *,
    sizes: Sizes,
    env_type: str,
    task: str,
    gpu: bool,
    made_by: str,
) -> str:
    """The config as YAML, a comment at each value that somebody may want to change.

    Any: the policy's config, an `XVLAConfig`.
    """
    is_libero = env_type == "libero"
    device = "cuda" if gpu else "cpu"
    head = (
        f"# Written by: {made_by}\n"
        "# `pirl config --help FIELD` explains a field, `pirl validate` checks this file.\n"
    )
    top = _section("", [("recipe", "pi-rl", ""), ("seed", 1000, "another seed is another run")])
    start = [
        ("path", source, "where the policy starts; its config.json has every other field of it"),
        ("device", device, ""),
        ("push_to_hub", False, "`pirl push RUN` uploads a finished run"),
        (
            "num_denoising_steps",
            policy.num_denoising_steps,
            "of the checkpoint; fewer sample faster",
        ),
        (
            "n_action_steps",
            policy.n_action_steps,
            f"executed of {policy.chunk_size} predicted actions",
        ),
        *_fewer_cameras(policy, CAMERAS if is_libero else CAMERAS[:1]),
    ]
    method: list[tuple[str, Any, str]] = [
        ("variant", "flow-sde", "or flow-noise, with a section flow_noise instead of flow_sde"),
        (
            "flow_sde",
            {"noise_level": 0.5},
            "exploration; lower it when the first episodes fall behind",
        ),
        ("actor_lr", sizes.actor_lr, "raise it while update/approx_kl stays far below 1e-2"),
        ("update_epochs", 2, ""),
        ("global_batch", sizes.global_batch, "decisions per optimiser step"),
        ("micro_batch", sizes.micro_batch, "lower it when memory runs out"),
    ]
    if is_libero:
        method.insert(
            2, ("executed_dims", list(range(10)), "the first arm of ee6d; LIBERO has one")
        )
    run = [
        ("actors", 1, ""),
        ("envs_per_actor", sizes.envs_per_actor, "simulators; each needs memory"),
        ("env_workers", sizes.env_workers, "processes that share them, at most one per core"),
        ("rollout_chunks", sizes.rollout_chunks, "decisions per update"),
        ("total_updates", sizes.total_updates, "length of the run; a resume may raise it"),
        ("checkpoint_every_updates", sizes.checkpoint_every_updates, ""),
        ("video_every", sizes.checkpoint_every_updates, "updates between two videos; 0 is off"),
        ("learner_device", device, ""),
        ("actor_device", device, ""),
        ("torch_threads", sizes.torch_threads, "of each process"),
    ]
    env = _libero(policy, task) if is_libero else _metaworld(policy, task)
    sections = {"policy": start, "env": env, "pirl": method, "runtime": run}
    return head + top + "".join(_section(name, rows) for name, rows in sections.items())


def _libero(policy: Any, task: str) -> list[tuple[str, Any, str]]:
    height, width = _picture(policy)
    rows: list[tuple[str, Any, str]] = [
        ("type", "libero", ""),
        ("task", task, "the suite"),
        ("task_ids", None, "every task; [0, 1] takes two of them"),
        ("control_mode", CONTROL_MODE, "ee6d actions are poses, not displacements"),
        (
            "episode_length",
            EPISODE_LENGTH,
            "control steps; LeRobot's own limits are too short for X-VLA",
        ),
        ("observation_height", height, "as the policy's camera features"),
        ("observation_width", width, ""),
    ]
    names = cameras(policy)
    if is_guessed(policy):
        mapping = dict(zip(("agentview_image", "robot0_eye_in_hand_image"), names, strict=False))
        rows.append(
            ("camera_name_mapping", mapping, "by order, a guess: agent view first, wrist second?")
        )
    return rows


def _metaworld(policy: Any, task: str) -> list[tuple[str, Any, str]]:
    return [
        ("type", "pirl_metaworld", ""),
        ("task", task, ""),
        ("image_size", _picture(policy)[0], "as the policy's camera feature"),
        ("action_repeat", ACTION_REPEAT, "simulator steps per action, as the policy was trained"),
        ("episode_length", EMBEDDED_LENGTH, "time limit in simulator steps"),
    ]


def cameras(policy: Any) -> list[str]:
    """Names of the cameras that the policy looks at on LIBERO, without LeRobot's prefix."""
    return [name.removeprefix(_IMAGES) for name in _kept(policy, CAMERAS)]


def is_guessed(policy: Any) -> bool:
    """Whether the names do not say which of LIBERO's cameras is which."""
    return not set(_kept(policy, CAMERAS)) <= set(CAMERAS)


def _kept(policy: Any, offered: Sequence[str]) -> list[str]:
    """The policy's cameras that the environment has pictures for: those of its names, else the first."""
    names = list(policy_facts(policy.type).cameras(policy))
    if len(names) <= len(offered):
        return names
    return [name for name in names if name in offered] or names[: len(offered)]


def _fewer_cameras(policy: Any, offered: Sequence[str]) -> list[tuple[str, Any, str]]:
    kept, facts = _kept(policy, offered), policy_facts(policy.type)
    left = [name for name in facts.cameras(policy) if name not in kept]
    if not left:
        return []
    features = {
        name: {"type": feature.type.name, "shape": list(feature.shape)}
        for name, feature in policy.input_features.items()
        if name not in left
    }
    said = ", ".join(name.removeprefix(_IMAGES) for name in left)
    return [
        ("input_features", features, f"without {said}, which the environment lacks"),
        (
            "num_image_views",
            facts.views(policy),
            "as trained; the views without pictures are padding",
        ),
    ]


def _picture(policy: Any) -> tuple[int, int]:
    """Height and width of the policy's first camera feature, inside what a simulator draws."""
    features: dict[str, Any] = policy.input_features or {}
    low, high = BOUNDS["env.observation_height"]
    for name in image_features(policy):
        shape = features[name].shape
        if len(shape) == 3 and all(low <= side <= high for side in shape[1:]):
            return int(shape[1]), int(shape[2])
    return 256, 256


def _section(name: str, rows: Sequence[tuple[str, Any, str]]) -> str:
    lines = [f"\n{name}:"] if name else []
    for key, value, comment in rows:
        is_plain = isinstance(value, str) and _PLAIN.fullmatch(value)
        # JSON is YAML: a path with a colon or a hash stays one value.
        line = f"{'  ' if name else ''}{key}: {value if is_plain else json.dumps(value)}"
        lines.append(f"{line:<{_COLUMN}}  # {comment}" if comment else line)
    return "\n".join(lines) + "\n"
