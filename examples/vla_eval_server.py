"""Serve a checkpoint on LIBERO to the public harness `vla-eval`, which then judges it in a loop of its own.

    pip install vla-eval
    python examples/vla_eval_server.py --address 127.0.0.1:8000 --args.checkpoint CHECKPOINT
    vla-eval run --no-docker -c CONFIG        # in the same environment; `docs/evaluation.md` has a CONFIG

The harness sends both cameras turned by 180 degrees, the pose of the controller as position and axis-angle, and
the instruction; it takes position, axis-angle and gripper sign, absolute. Here its observation becomes LIBERO's
own again and goes through LeRobot's processor steps and sampler, as in `lerobot-eval`. Its time limit for
libero_10 is 520 steps; X-VLA needs more (`max_steps: 800`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import draccus
import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from scipy.spatial.transform import Rotation

from pirl.config.policy_path import resolve_policy_path
from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.domain import domain_id_of
from pirl.policies.xvla.inputs import real_cameras
from pirl.policies.xvla.libero import libero_actions, policy_observation
from pirl.policies.xvla.processors import tokenize_instruction
from pirl.policies.xvla.stock import stock_generate
from pirl.records import Observation

CAMERAS = {"observation.images.image": "agentview", "observation.images.image2": "wrist"}
"""The harness's name of each camera."""


class LiberoPolicy:
    """An X-VLA checkpoint behind the harness's form of LIBERO."""

    def __init__(self, checkpoint: str, *, device: str = "cpu", seed: int = 0) -> None:
        self._config: Any = draccus.decode(
            PreTrainedConfig, resolve_policy_path({"path": checkpoint})
        )
        self._policy = build_policy(self._config, executed_dims=range(10), device=device, seed=seed)
        self._noise = torch.Generator().manual_seed(seed)

    @property
    def executed_steps(self) -> int:
        """E: actions that are executed before the policy looks again."""
        return self._policy.spec.executed_steps

    def observation(self, seen: Mapping[str, Any]) -> Observation:
        """The policy's inputs, from what the harness sends."""
        images = {
            name: np.ascontiguousarray(
                np.asarray(seen["images"][CAMERAS[name]])[::-1, ::-1].transpose(2, 0, 1)
            )
            for name in real_cameras(self._config)
        }
        pose = np.asarray(seen["controller_states"], dtype=np.float32)
        turn = Rotation.from_rotvec(pose[3:6]).as_matrix().astype(np.float32)
        shown, state = policy_observation(images, position=pose[:3], rotation=turn)
        return Observation(
            images={
                name: torch.from_numpy(np.ascontiguousarray(shown[name]))[None] for name in shown
            },
            state=torch.from_numpy(state)[None],
            inputs={
                "input_ids": tokenize_instruction(self._config, str(seen["task_description"])),
                "domain_id": torch.tensor([domain_id_of(self._config)]),
            },
        )

    def __call__(self, seen: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """Actions [E, 7]: position, axis-angle, gripper -1 open or 1 closed."""
        spec = self._policy.spec
        noise = torch.randn(1, spec.chunk_size, spec.model_dim, generator=self._noise)
        with torch.no_grad():
            chunk = stock_generate(self._policy.module, self.observation(seen), noise)
        return libero_actions(chunk[0, : self.executed_steps].float().cpu().numpy())


def server_class() -> type:
    """The harness's server around `LiberoPolicy`; it has to be installed for that."""
    from vla_eval.model_servers.predict import PredictModelServer
    from vla_eval.specs import (
        GRIPPER_CLOSE_POS,
        IMAGE_RGB,
        LANGUAGE,
        POSITION_DELTA,
        ROTATION_AA,
        STATE_EEF_POS_AA_GRIP,
    )

    class PirlServer(PredictModelServer):
        def __init__(self, checkpoint: str, device: str = "cpu", **kwargs: Any) -> None:
            self.policy = LiberoPolicy(checkpoint, device=device)
            super().__init__(**{"chunk_size": self.policy.executed_steps, **kwargs})

        def get_observation_params(self) -> dict[str, Any]:
            return {"send_wrist_image": True, "send_state": True, "absolute_action": True}

        def get_observation_spec(self) -> dict[str, Any]:
            cameras = dict.fromkeys(CAMERAS.values(), IMAGE_RGB)
            return {**cameras, "language": LANGUAGE, "state": STATE_EEF_POS_AA_GRIP}

        def get_action_spec(self) -> dict[str, Any]:
            # The harness has one word for LIBERO's positions, also where they are absolute.
            return {
                "position": POSITION_DELTA,
                "rotation": ROTATION_AA,
                "gripper": GRIPPER_CLOSE_POS,
            }

        def predict(self, obs: Mapping[str, Any], ctx: Any) -> dict[str, Any]:
            return {"actions": self.policy(obs)}

    return PirlServer


if __name__ == "__main__":
    from vla_eval.model_servers.serve import run_server

    run_server(server_class())
