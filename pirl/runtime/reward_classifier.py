"""LeRobot's reward classifier as a reward: what its pictures say of the boundary after a chunk.

Owns loading, through LeRobot's own class, and the digest that goes into the identity. Refuses weights and encoders
from anywhere but a folder: LeRobot would run code that an encoder brings along. Read `pirl.runtime.rewards` next.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float32

from pirl.config.strictjson import read_json_object
from pirl.config.view import View
from pirl.config.weights_header import WEIGHTS_FILE
from pirl.envs.base import Array, EnvInfo
from pirl.errors import CheckpointError, FieldError
from pirl.journal.fields import file_sha256
from pirl.runtime.rewards import ExecutedChunk, Reward, RewardKind

_FOLDERS = ("reward_model.pretrained_path", "reward_model.model_name")


@final
class ClassifierKind(RewardKind):
    """LeRobot's `reward_classifier`: 1 in the last row that ran where it sees success, else 0."""

    def __init__(self) -> None:
        self.rules = (check_classifier,)

    def config_class(self) -> type:
        """LeRobot's `RewardClassifierConfig`."""
        from lerobot.rewards.classifier.configuration_classifier import RewardClassifierConfig

        return RewardClassifierConfig

    def bound(self, reward_config: Any, env: EnvInfo) -> float:
        """A class is worth 1 at most: only two are taken."""
        del reward_config, env
        return 1.0

    def identity(self, reward_config: Any) -> str:
        """Digest of the weights."""
        file = Path(reward_config.pretrained_path) / WEIGHTS_FILE
        try:
            return f"weights={file_sha256(file)[:16]}"
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read", parts=[str(error)]) from error

    def build(self, reward_config: Any, *, device: str) -> Reward:
        """LeRobot's `Classifier`, strict keys, in eval mode."""
        import torch
        from lerobot.rewards.classifier.modeling_classifier import Classifier

        config = reward_config
        config.device = device
        try:
            model = Classifier.from_pretrained(config.pretrained_path, config=config, strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{config.pretrained_path}: no reward classifier", parts=[str(error)[:400]]
            ) from error
        keys = tuple(name for name in config.input_features if "image" in name)

        def reward(chunk: ExecutedChunk) -> Float32[Array, " E"]:
            pictures = {
                key: torch.from_numpy(np.ascontiguousarray(chunk.after.images[key]))[None]
                .to(device)
                .float()
                / 255
                for key in keys
            }
            with torch.no_grad():
                sees_success = bool(model.predict_reward(pictures) > 0)
            rows = np.zeros_like(chunk.step_rewards)
            rows[chunk.valid_steps - 1] = float(sees_success)
            return rows

        return reward


def check_classifier(view: View) -> Iterator[FieldError]:
    """Weights and encoder lie in folders here and bring no code; two classes; cameras that the policy has."""
    for name in _FOLDERS:
        given = view.text(name)
        config = None if given is None else Path(given) / "config.json"
        if config is None or not config.is_file():
            yield _wrong(name, given, "a folder on this machine with a config.json", f"set {name}")
        elif "auto_map" in read_json_object(config):
            fix = "use an encoder of a class that transformers has"
            yield _wrong(name, given, "a model without code of its own (auto_map)", fix)
    classes = view.integer("reward_model.num_classes")
    if classes not in (None, 2):
        yield _wrong("reward_model.num_classes", classes, "2: success or not", "set it to 2")
    offered = view.section("policy.input_features") or {}
    seen = view.section("reward_model.input_features") or {}
    missing = [name for name in seen if "image" in name and name not in offered]
    if missing:
        fix = "rename the classifier's cameras"
        yield _wrong("reward_model.input_features", missing, "cameras of the policy", fix)


def _wrong(field: str, value: object, expected: str, fix: str) -> FieldError:
    return FieldError(field=field, value=value, expected=expected, fix=fix)


KIND = ClassifierKind()
