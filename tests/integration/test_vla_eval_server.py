"""The example server for `vla-eval`: what the harness sends becomes what LIBERO shows, and its actions come back.

The harness itself is not installed here; its two imports are stand-ins.
"""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pirl.policies.xvla.libero import libero_actions, policy_observation
from pirl.policies.xvla.stock import stock_generate
from pirl.policies.xvla.tiny import tiny_xvla_config, write_tiny_checkpoint

pytestmark = pytest.mark.integration

REPO = Path(__file__).parents[2]
MAIN, WRIST = "observation.images.image", "observation.images.image2"
STEPS = 5
SPECS = (
    *("IMAGE_RGB", "LANGUAGE", "STATE_EEF_POS_AA_GRIP"),
    *("POSITION_DELTA", "ROTATION_AA", "GRIPPER_CLOSE_POS"),
)
"""What the harness's LIBERO says that it sends and takes (vla-eval 0.8.0)."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    """The example's names, and a policy of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPO)
        config = tiny_xvla_config(chunk_size=20, n_action_steps=STEPS)
        folder = write_tiny_checkpoint(tmp_path_factory.mktemp("served") / "policy", config, seed=1)
        example = runpy.run_path("examples/vla_eval_server.py")
        yield example, example["LiberoPolicy"](str(folder)), str(folder)


def raw() -> dict[str, np.ndarray]:
    """What the simulator draws, before anybody turns it."""
    rng = np.random.default_rng(3)
    return {name: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for name in (MAIN, WRIST)}


def sent(images) -> dict:
    """As the harness's LIBERO sends it."""
    turned = {"agentview": images[MAIN][::-1, ::-1], "wrist": images[WRIST][::-1, ::-1]}
    pose = np.array([0.1, -0.2, 0.9, 0.3, -1.2, 2.0, 0.04, -0.04], dtype=np.float32)
    return {
        "images": turned,
        "controller_states": pose,
        "states": np.zeros(8),
        "task_description": "put the white mug on the left plate",
    }


def test_the_policy_sees_what_lerobot_s_own_step_makes_of_the_simulator(served):
    _, policy, _ = served
    images, message = raw(), sent(raw())
    seen = policy.observation(message)
    turn = Rotation.from_rotvec(message["controller_states"][3:6]).as_matrix()
    shown, state = policy_observation(
        {name: np.ascontiguousarray(image.transpose(2, 0, 1)) for name, image in images.items()},
        position=message["controller_states"][:3],
        rotation=turn.astype(np.float32),
    )
    assert torch.equal(seen.state[0], torch.from_numpy(state))
    assert state[3:6] == pytest.approx(turn[:, 0], abs=1e-5)
    for name in (MAIN, WRIST):
        assert np.array_equal(seen.images[name][0].numpy(), shown[name])
    # The main picture is upright for the policy, the wrist's as the simulator draws it.
    assert np.array_equal(seen.images[MAIN][0].numpy(), images[MAIN][::-1, ::-1].transpose(2, 0, 1))
    assert np.array_equal(seen.images[WRIST][0].numpy(), images[WRIST].transpose(2, 0, 1))


def test_actions_are_stock_lerobot_s_first_steps_in_libero_s_form(served):
    example, _, folder = served
    policy, message = example["LiberoPolicy"](folder, seed=4), sent(raw())
    actions = policy(message)
    assert actions.shape == (STEPS, 7)
    assert set(np.unique(actions[:, 6])) <= {-1.0, 1.0}
    noise = torch.randn(1, 20, 20, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        chunk = stock_generate(policy._policy.module, policy.observation(message), noise)
    assert np.array_equal(actions, libero_actions(chunk[0, :STEPS].numpy()))
    assert not np.array_equal(policy(message), actions)


def test_the_harness_is_told_what_to_send_and_gets_a_chunk(served, monkeypatch):
    example, _, folder = served

    class PredictModelServer:
        def __init__(self, **kwargs):
            self.given = kwargs

    parts = {
        "vla_eval": {},
        "vla_eval.model_servers": {},
        "vla_eval.model_servers.predict": {"PredictModelServer": PredictModelServer},
        "vla_eval.specs": {name: name for name in SPECS},
    }
    for name, names in parts.items():
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    server = example["server_class"]()(folder)
    assert server.given == {"chunk_size": STEPS}
    asked = server.get_observation_params()
    assert asked == {"send_wrist_image": True, "send_state": True, "absolute_action": True}
    said = [*server.get_observation_spec().values(), *server.get_action_spec().values()]
    assert set(said) == set(SPECS)
    assert server.get_observation_spec().keys() == {"agentview", "wrist", "language", "state"}
    assert server.predict(sent(raw()), None)["actions"].shape == (STEPS, 7)
