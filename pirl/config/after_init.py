"""What LeRobot's config classes compute or refuse when they are made, said again without LeRobot.

Owns one function for each class of `pirl.config.lerobot_fields` whose original has a `__post_init__`,
`validate_features` of X-VLA, and the one default that depends on the machine. A digest of each
original stands in `lerobot_fields.CODE`, and a test refuses one that changed: read what changed there,
say it here, and generate that module anew.

Left to the processes that build a policy: `policy.device`, which LeRobot replaces by what torch finds
here. No identity covers it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any

ACTION = "action"
STATE = "observation.state"
IMAGES = "observation.images"
PIXELS = ("pixels/agentview_image", "pixels/robot0_eye_in_hand_image")
"""Feature names of LIBERO's two cameras."""
LIBERO_STATE: dict[str, tuple[int, ...]] = {
    "robot_state/eef/pos": (3,),
    "robot_state/eef/quat": (4,),
    "robot_state/eef/mat": (3, 3),
    "robot_state/gripper/qpos": (2,),
    "robot_state/gripper/qvel": (2,),
    "robot_state/joints/pos": (7,),
    "robot_state/joints/vel": (7,),
}
"""Shapes of LIBERO's proprioception, by feature name."""

type MakeFeature = Callable[[str, tuple[int, ...]], Any]
"""A feature from the name of its type and its shape."""


def dataset(cfg: Any) -> None:
    """A data set of a known kind, with episodes that exist once.

    Raises:
        ValueError: it is not.
    """
    _require(cfg.repo_type in ("dataset", "bucket"), "repo_type 'dataset' or 'bucket'")
    if cfg.repo_type == "bucket":
        _require(cfg.streaming, "streaming=true with repo_type 'bucket'")
        _require(cfg.eval_split == 0.0, "eval_split 0 with repo_type 'bucket'")
    _require(cfg.depth_output_unit in ("m", "mm"), "depth_output_unit 'm' or 'mm'")
    _require(0.0 <= cfg.eval_split < 1.0, "eval_split in [0, 1)")
    if cfg.episodes is not None:
        _require(all(index >= 0 for index in cfg.episodes), "episodes of 0 or more")
        _require(len(set(cfg.episodes)) == len(cfg.episodes), "each of episodes once")


def evaluation(cfg: Any) -> None:
    """A batch no larger than the number of episodes.

    The rule `check_eval` refuses the batch of 0 that LeRobot turns into a function of the core count.

    Raises:
        ValueError: a repository for recordings that nobody makes.
    """
    given = cfg.recording_repo_id is not None
    _require(not given or cfg.recording, "recording=true with recording_repo_id")
    cfg.batch_size = min(cfg.batch_size, cfg.n_episodes)


def libero(cfg: Any, feature: MakeFeature) -> None:
    """LIBERO's features follow from the image size, the kind of observation and the camera names.

    Raises:
        ValueError: a setting that LeRobot's environment does not have.
    """
    _require(cfg.fps > 0, "a positive fps")
    _require(cfg.hard_reset or cfg.init_states, "init_states=true with hard_reset=false")
    _require(cfg.obs_type in ("pixels", "pixels_agent_pos"), "obs_type pixels or pixels_agent_pos")
    image = (cfg.observation_height, cfg.observation_width, 3)
    cfg.features |= {name: feature("VISUAL", image) for name in PIXELS}
    if cfg.obs_type == "pixels_agent_pos":
        cfg.features |= {name: feature("STATE", shape) for name, shape in LIBERO_STATE.items()}
    names: Mapping[str, str] | None = cfg.camera_name_mapping
    if names is not None:
        for pixels, plain in zip(PIXELS, ("image", "image2"), strict=True):
            shown = names.get(pixels.removeprefix("pixels/"), plain)
            cfg.features_map[pixels] = f"{IMAGES}.{shown}"


def metaworld(cfg: Any, feature: MakeFeature) -> None:
    """The features of `pirl_metaworld` follow from camera and image size.

    Raises:
        ValueError: the config gives other ones.
    """
    pixels = f"pixels/{cfg.camera}"
    features = {
        ACTION: feature("ACTION", (4,)),
        "agent_pos": feature("STATE", (4,)),
        pixels: feature("VISUAL", (cfg.image_size, cfg.image_size, 3)),
    }
    names = {ACTION: ACTION, "agent_pos": STATE, pixels: f"{IMAGES}.image"}
    if cfg.features not in ({}, features) or cfg.features_map not in ({}, names):
        raise ValueError("leave features and features_map out: this environment fixes both")
    cfg.features = features
    cfg.features_map = names


def xvla(cfg: Any) -> None:
    """Sizes and precision that X-VLA has.

    Raises:
        ValueError: it has not.
    """
    _require(cfg.chunk_size > 0, "a positive chunk_size")
    _require(cfg.n_action_steps <= cfg.chunk_size, "n_action_steps of at most chunk_size")
    views = cfg.num_image_views
    _require(views is None or views > 0, "a positive num_image_views, or null")
    _require(cfg.dtype in ("float32", "bfloat16"), "dtype float32 or bfloat16")


def check_features(policy: Any) -> None:
    """The features that X-VLA cannot do without.

    Raises:
        ValueError: one is missing.
    """
    features: dict[str, Any] = policy.input_features or {}
    _require(any(_is(f, "VISUAL") for f in features.values()), "at least one VISUAL feature")
    has_state = STATE in features and _is(features[STATE], "STATE")
    _require(has_state or not policy.use_proprio, f"{STATE} of type STATE with use_proprio=true")


def video_backend() -> str:
    """Torchcodec where it can be loaded, else pyav: LeRobot's choice for a data set that names none."""
    if importlib.util.find_spec("torchcodec") is None:
        return "pyav"
    try:
        importlib.import_module("torchcodec")
    except (ImportError, OSError, RuntimeError):
        return "pyav"
    return "torchcodec"


def image_features(policy: Any) -> Iterator[str]:
    """Names of a policy's cameras in its order, the empty ones too."""
    return (name for name, f in (policy.input_features or {}).items() if _is(f, "VISUAL"))


def _is(feature: Any, kind: str) -> bool:
    return feature.type.name == kind


def _require(holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(expected)
