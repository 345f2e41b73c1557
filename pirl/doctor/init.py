"""`pirl init`: a train config for a checkpoint, an environment and this machine, with a comment at each choice.

Owns the text of that config and which values it takes from the checkpoint. Reads `config.json` and the header
of the weights, no weights. What it writes has passed `pirl validate`. Read `pirl.doctor.sizes` next.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import draccus

from pirl.config.after_init import image_features
from pirl.config.check import check_config
from pirl.config.command_line import parse
from pirl.config.lerobot_fields import PreTrainedConfig
from pirl.config.policy_path import CONFIG_NAME, resolve_policy_path
from pirl.config.recipe import QUALIFIED_POLICIES
from pirl.config.rules_env import SIZES as BOUNDS
from pirl.config.starting import Start, read_start
from pirl.config.views import EMPTY_CAMERA_PREFIX
from pirl.doctor.arguments import init_parser
from pirl.doctor.gpu import gpu_name
from pirl.doctor.profile import CAMERAS, CONTROL_MODE, EPISODE_LENGTH
from pirl.doctor.sizes import Machine, Sizes, fit
from pirl.errors import ConfigError, FieldError
from pirl.files import write_text
from pirl.resources import locate

EMBEDDED_LENGTH, ACTION_REPEAT = 95, 5
"""Time limit in simulator steps and simulator steps per action, as in the shipped configs."""

_IMAGES = "observation.images."
_PLACES = ("", "pretrained_model", "checkpoints/last/pretrained_model")
"""Where a policy lies in its own folder, in a step of a run and in a run of `lerobot-train`."""
_COLUMN = 34
_PLAIN = re.compile(r"(?!(null|true|false)$)[A-Za-z][\w./-]*")


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl init`."""
    args, _ = parse(init_parser(), argv)
    source = find_policy(args.checkpoint)
    out: Path = args.out or Path(f"pirl_{args.task.replace('/', '_')}.yaml")
    _require_new(out)
    policy, start = _read(source)
    sizes = _sizes(policy, start, env_type=args.env, gpu=args.gpu)
    command = shlex.join(["pirl", "init", *argv])
    text = config_text(
        source,
        policy,
        sizes=sizes,
        env_type=args.env,
        task=args.task,
        gpu=args.gpu,
        made_by=command,
    )
    _require_valid(text)
    write_text(out, text)
    sys.stdout.write(_answer(out, sizes))
    for note in _notes(policy, sizes, env_type=args.env, gpu=args.gpu):
        sys.stderr.write(f"note: {note}\n")
    return 0


def find_policy(given: str) -> str:
    """The folder of the policy that `given` means, or `given` where that is no folder (a hub repository)."""
    for place in _PLACES:
        if (locate(given) / place / CONFIG_NAME).is_file():
            return (Path(given) / place).as_posix()
    return given


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
    names = _cameras(policy)
    if _is_guessed(policy):
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


def _read(source: str) -> tuple[Any, Start | None]:
    """Config and file facts of the checkpoint.

    Raises:
        ConfigError: there is none, or it is of a policy that the recipe does not train.
        CheckpointError: a file of it is damaged.
        EnvironmentNotReadyError: it is on the hub, and that cannot be reached.
    """
    tree = resolve_policy_path({"path": source})
    if tree["type"] not in QUALIFIED_POLICIES:
        raise _wrong(
            "--from",
            f"{source} ({tree['type']})",
            f"a policy that the recipe trains: {', '.join(QUALIFIED_POLICIES)}",
            "give a checkpoint of such a policy",
        )
    policy = draccus.decode(PreTrainedConfig, tree)
    return policy, read_start(policy)


def _sizes(policy: Any, start: Start | None, *, env_type: str, gpu: bool) -> Sizes:
    tensors = start.tensors if start is not None and start.tensors is not None else {}
    repeat, limit = (
        (1, EPISODE_LENGTH) if env_type == "libero" else (ACTION_REPEAT, EMBEDDED_LENGTH)
    )
    return fit(
        Machine.here(),
        values=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        env_type=env_type,
        decisions_per_episode=max(1, -(-limit // (repeat * policy.n_action_steps))),
        gpu=gpu,
    )


def _require_valid(text: str) -> None:
    """Refuse before anything is written: what is wrong lies in checkpoint and task, not in a file to mend."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            check_config(file)
        except ConfigError as error:
            raise ConfigError(error.errors, source="checkpoint and task") from error


def _require_new(out: Path) -> None:
    if out.suffix not in (".yaml", ".yml"):
        raise _wrong("--out", str(out), "a name that ends in .yaml", f"--out {out.stem}.yaml")
    if out.exists():
        raise _wrong("--out", str(out), "a new file", "choose another name, or move that one away")


def _cameras(policy: Any) -> list[str]:
    """Names of the cameras that the policy looks at, without LeRobot's prefix."""
    names = [n for n in image_features(policy) if not n.startswith(EMPTY_CAMERA_PREFIX)]
    return [name.removeprefix(_IMAGES) for name in names]


def _is_guessed(policy: Any) -> bool:
    """Whether the names do not say which camera is which."""
    usual = {name.removeprefix(_IMAGES) for name in CAMERAS}
    return 1 <= len(_cameras(policy)) <= len(usual) and not set(_cameras(policy)) <= usual


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


def _answer(out: Path, sizes: Sizes) -> str:
    file, run = shlex.quote(str(out)), shlex.quote(f"outputs/train/{out.stem}")
    return (
        f"wrote {out}: {sizes.envs_per_actor} environments in {sizes.env_workers} workers,"
        f" {sizes.rollout_chunks} decisions per update, about {sizes.needed_gib:.1f} GiB of memory\n"
        "next:\n"
        f"  pirl validate --config_path {file}\n"
        f"  pirl launch --config_path {file} --output_dir={run}\n"
        f"  pirl eval --policy_path {run}/checkpoints/last/pretrained_model --out results/{out.stem}\n"
    )


def _notes(policy: Any, sizes: Sizes, *, env_type: str, gpu: bool) -> list[str]:
    notes: list[str] = []
    if gpu and gpu_name() is None:
        notes.append(
            "torch would find no CUDA device here; the config is for a machine that has one"
        )
    free = Machine.here().memory_gib
    if sizes.needed_gib > free:
        notes.append(f"{free:.1f} GiB of memory are free here; the run needs more")
    if env_type == "libero" and _is_guessed(policy):
        notes.append(
            f"the cameras {', '.join(_cameras(policy))} were taken for agent view and wrist by their order;"
            " look at env.camera_name_mapping"
        )
    return notes


def _wrong(field: str, value: object, expected: str, fix: str) -> ConfigError:
    error = FieldError(field=field, value=value, expected=expected, fix=fix)
    return ConfigError([error], source="command line")
