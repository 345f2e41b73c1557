"""Where the parts of a checkpoint lie, and which of them must be there.

Owns names. Refuses to open files. The layout is LeRobot's, plus `manifest.json`, `run_state.json`
and `algorithm_state.safetensors`. Read `pirl.checkpoint.save` next.
"""

from __future__ import annotations

from pathlib import Path

from lerobot.configs.train import TRAIN_CONFIG_NAME
from lerobot.utils.constants import (
    ALGORITHM_DIR,
    OPTIMIZER_PARAM_GROUPS,
    OPTIMIZER_STATE,
    PRETRAINED_MODEL_DIR,
    RNG_STATE,
    TRAINING_STATE_DIR,
    TRAINING_STEP,
)

from pirl.algorithm.optim import OPTIMIZER

POLICY_WEIGHTS = f"{PRETRAINED_MODEL_DIR}/model.safetensors"
POLICY_CONFIG = f"{PRETRAINED_MODEL_DIR}/config.json"
TRAIN_CONFIG = f"{PRETRAINED_MODEL_DIR}/{TRAIN_CONFIG_NAME}"
ALGORITHM_WEIGHTS = f"{ALGORITHM_DIR}/model.safetensors"
ALGORITHM_CONFIG = f"{ALGORITHM_DIR}/config.json"
STEP_FILE = f"{TRAINING_STATE_DIR}/{TRAINING_STEP}"
RNG_FILE = f"{TRAINING_STATE_DIR}/{RNG_STATE}"
RUN_STATE = f"{TRAINING_STATE_DIR}/run_state.json"
ALGORITHM_STATE = f"{TRAINING_STATE_DIR}/algorithm_state.safetensors"
OPTIMIZER_TENSORS = f"{TRAINING_STATE_DIR}/{OPTIMIZER}/{OPTIMIZER_STATE}"
OPTIMIZER_GROUPS = f"{TRAINING_STATE_DIR}/{OPTIMIZER}/{OPTIMIZER_PARAM_GROUPS}"

REQUIRED_PARTS = (
    POLICY_WEIGHTS,
    POLICY_CONFIG,
    TRAIN_CONFIG,
    ALGORITHM_WEIGHTS,
    ALGORITHM_CONFIG,
    STEP_FILE,
    RNG_FILE,
    RUN_STATE,
    ALGORITHM_STATE,
    OPTIMIZER_TENSORS,
    OPTIMIZER_GROUPS,
)
"""Without any of these there is no resume; a manifest that omits one does not make it optional."""


def missing_parts(step_dir: Path) -> list[str]:
    """Required parts that are not there, in the order of `REQUIRED_PARTS`."""
    return [part for part in REQUIRED_PARTS if not (step_dir / part).is_file()]
