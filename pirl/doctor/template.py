"""The text of a config that `pirl init` writes: what it takes from the checkpoint, and a comment at each choice.

Owns the sections and the words that every policy and environment has; what one of them needs is its kind's to
say (`pirl.config.kinds`). Refuses to judge: the text is checked as any config is. Read `pirl.doctor.sizes` for
the numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pirl.config.after_init import image_features
from pirl.config.kinds import EnvTemplate, policy_facts
from pirl.config.rules_fields import LEROBOTS
from pirl.doctor.sizes import Sizes

_COLUMN = 34
_PLAIN = re.compile(r"(?!(null|true|false)$)[A-Za-z][\w./-]*")


def config_text(
    source: str,
    policy: Any,
    *,
    sizes: Sizes,
    env: EnvTemplate,
    env_type: str,
    task: str,
    gpu: bool,
    made_by: str,
) -> str:
    """The config as YAML, a comment at each value that somebody may want to change.

    Any: the policy's config, of LeRobot's class or of its copy here.
    """
    facts = policy_facts(policy.type)
    cameras = facts.cameras(policy)
    seen = cameras if env.seen is None else env.seen
    further = facts.template(policy, without=[name for name in cameras if name not in seen])
    steps = facts.denoising_field.removeprefix("policy.")
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
        (steps, getattr(policy, steps), "of the checkpoint; fewer sample faster"),
        (
            "n_action_steps",
            policy.n_action_steps,
            f"executed of {policy.chunk_size} predicted actions",
        ),
        *further.get("policy", ()),
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
    method[2:2] = [*env.pirl, *further.get("pirl", ())]
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
    place: list[tuple[str, Any, str]] = [("type", env_type, ""), ("task", task, ""), *env.env]
    sections = {"policy": start, "env": place, "pirl": method, "runtime": run}
    return head + top + "".join(_section(name, rows) for name, rows in sections.items())


def picture(policy: Any) -> tuple[int, int]:
    """Height and width of the policy's first camera feature, inside what a simulator draws."""
    features: dict[str, Any] = policy.input_features or {}
    bound = LEROBOTS["env.observation_height"]
    for name in image_features(policy):
        shape = features[name].shape
        if len(shape) == 3 and all(bound.holds(side) for side in shape[1:]):
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
