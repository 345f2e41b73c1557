"""A LeRobotDataset as the demonstrations of a learner: LeRobot's own class reads it, the policy prepares its rows.

Owns the way from a row of the data set to what the policy saw and the chunk that was shown. Refuses to know losses
and which row is imitated when. What is refused before anything starts is in `pirl.config.demonstrations`. Read
`pirl.algorithm.demonstrations` next.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from pirl.config.demonstrations import (
    content_digest,
    has_demonstrations,
    require_demonstrations,
)
from pirl.config.load import LoadedConfig
from pirl.contract.flow_policy import Array, FlowPolicy
from pirl.envs import EnvObservation
from pirl.errors import ConfigError, FieldError, PirlError
from pirl.foreign import machine_error
from pirl.records import Observation

logger = logging.getLogger(__name__)

KEPT_BYTES = 2**30
"""Prepared rows stay in memory up to here, so that a small data set is decoded once; others are read again."""


def demonstration_facts(loaded: LoadedConfig) -> dict[str, str]:
    """What says which demonstrations a learner has, before it has any network: `demonstrations`, the digest.

    Returns:
        Nothing for a run without demonstrations.

    Raises:
        ConfigError: the data set is not there or does not fit.
        CheckpointError: a file of it cannot be read.
    """
    if not has_demonstrations(loaded.cfg):
        return {}
    require_demonstrations(loaded.cfg, source=loaded.identity.path)
    assert loaded.cfg.dataset is not None
    assert loaded.cfg.dataset.root is not None
    return {"demonstrations": content_digest(Path(loaded.cfg.dataset.root))}


def open_demonstrations(
    loaded: LoadedConfig, policy: FlowPolicy, facts: Mapping[str, str]
) -> LeRobotDemonstrations | None:
    """The demonstrations of a valid config; None for a run without.

    Args:
        facts: of `demonstration_facts`.

    Raises:
        ConfigError: LeRobot cannot read the data set.
    """
    data = loaded.cfg.dataset
    if not facts or data is None:
        return None
    try:
        fps = LeRobotDatasetMetadata(data.repo_id, root=data.root).fps
        rows = [step / fps for step in range(policy.spec.chunk_size)]
        dataset = LeRobotDataset(
            data.repo_id,
            root=data.root,
            episodes=data.episodes,
            # LeRobot cuts the chunks: behind the end of an episode its last action is repeated.
            delta_timestamps={ACTION: rows},
            video_backend=data.video_backend,
        )
    except Exception as error:
        raise _unreadable(data.root, error) from error
    found = LeRobotDemonstrations(dataset, policy, digest=facts["demonstrations"])
    logger.info("demonstrations: %s", ", ".join(f"{n} {v}" for n, v in found.facts.items()))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One row as the policy takes it."""

    observation: Observation
    action: Float[Tensor, "1 C A"]

    @property
    def num_bytes(self) -> int:
        seen = (*self.observation.images.values(), self.observation.state, self.action)
        return sum(t.numel() * t.element_size() for t in seen)


class LeRobotDemonstrations:
    """Rows of a data set whose `action` is read as chunks; `pirl.algorithm.demonstrations.Demonstrations`."""

    def __init__(
        self,
        dataset: LeRobotDataset,
        policy: FlowPolicy,
        *,
        digest: str,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        """
        Args:
            digest: of the whole data set's content.
            kept_bytes: how much stays in memory.
        """
        self._dataset, self._policy = dataset, policy
        self._digest = digest
        self._kept: dict[int, _Row] = {}
        self._room = self._most = kept_bytes

    @property
    def facts(self) -> Mapping[str, str | int]:
        """Digest of the content, episodes and frames that are read."""
        return {
            "sha256": self._digest,
            "episodes": int(self._dataset.num_episodes),
            "frames": len(self),
        }

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def most_bytes(self) -> int:
        """What stays in memory at most: all rows, if they fit into the room that is left for them."""
        return min(self._most, len(self) * self._row(0).num_bytes)

    def batch(self, rows: Int64[Tensor, " m"]) -> Mapping[str, Tensor]:
        """`FlowPolicy.demo_batch` of these rows."""
        found = [self._row(int(index)) for index in rows]
        return self._policy.demo_batch(
            Observation.cat([row.observation for row in found]),
            torch.cat([row.action for row in found]),
        )

    def _row(self, index: int) -> _Row:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        try:
            item = cast("dict[str, Any]", self._dataset[index])
        except Exception as error:
            raise _unreadable(self._dataset.root, error) from error
        seen = EnvObservation(
            images={name: as_picture(item[name]) for name in self._policy.cameras},
            state=item[OBS_STATE].numpy().astype(np.float32),
        )
        row = _Row(
            observation=self._policy.prepare(seen, str(item["task"])),
            action=item[ACTION].float().unsqueeze(0),
        )
        if row.num_bytes <= self._room:
            self._kept[index] = row
            self._room -= row.num_bytes
        return row


def _unreadable(root: object, error: Exception) -> PirlError:
    """LeRobot reads through several libraries, each of which has errors of its own."""
    wrong = FieldError(
        field="dataset.root",
        value=str(root),
        expected=f"a data set that LeRobot can read: {type(error).__name__}: {error}",
        fix="open it with lerobot.datasets.LeRobotDataset to see what is wrong with it",
    )
    return machine_error(error) or ConfigError([wrong])


def as_picture(read: Tensor) -> Array:
    """uint8 [3, h, w] of LeRobot's floats in [0, 1]; 255 times such a float is the byte it came from."""
    return np.rint(read.numpy() * 255).astype(np.uint8)
