"""A checkpoint as stock LeRobot saves it: its views and its dtype are the network's, whatever its config lists."""

import json
from pathlib import Path

import pytest
import torch
from contract_builders import a_config, a_policy
from lerobot.configs import PreTrainedConfig
from safetensors.torch import load_file, save_file

from pirl.config.check import check_config
from pirl.config.load import load_config
from pirl.config.policy_path import resolve_policy_path
from pirl.config.views import view_count
from pirl.contract.tiny import write_tiny_checkpoint
from pirl.contract.xvla import build_policy, save_pretrained
from pirl.runtime.identity import settings_of

SMOKE = "configs/train_config_pirl_libero_smoke.json"
EMPTY = "observation.images.empty_camera_0"
EMPTY_FEATURE = {"type": "VISUAL", "shape": [3, 64, 64]}


def starting_at(folder, tmp_path):
    """The smoke config with the policy of `folder` in place of its own."""
    tree = json.loads(Path(SMOKE).read_text()) | {"policy": {}}
    file = tmp_path / "train.json"
    file.write_text(json.dumps(tree))
    return file, [f"--policy.path={folder}"]


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def built(cfg):
    dims = cfg.pirl.executed_dims
    return build_policy(cfg.policy, executed_dims=dims, device="cpu", seed=0)


@pytest.mark.parametrize("saved_views", [3, 4, None])
def test_an_empty_camera_listed_and_counted_is_one_view(saved_views, tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "ft", a_config(chunk_size=20), seed=1)
    config = json.loads((folder / "config.json").read_text())
    features = config["input_features"] | {EMPTY: EMPTY_FEATURE}
    edit(folder / "config.json", input_features=features, num_image_views=saved_views)
    cfg = load_config(*starting_at(folder, tmp_path)).cfg
    wanted = saved_views or 3
    assert cfg.policy.num_image_views == wanted
    assert built(cfg).module.model.config.num_image_views == wanted
    assert settings_of(cfg)["cameras"] == f"image,image2 of {wanted} views"


def test_a_config_that_lists_the_empty_camera_itself_is_counted_alike(tmp_path):
    config = a_config()
    config.pretrained_path = write_tiny_checkpoint(tmp_path, config, seed=1)
    config.input_features[EMPTY] = config.input_features["observation.images.image"]
    assert view_count(config) == 3
    assert a_policy(config).module.model.config.num_image_views == 3


def test_an_empty_camera_that_nothing_counts_is_a_view_of_its_own():
    config = a_config(empty_cameras=0)
    config.input_features[EMPTY] = config.input_features["observation.images.image"]
    assert view_count(config) == 3
    assert a_policy(config).module.model.config.num_image_views == 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"], ids=lambda d: f"config-{d}")
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_half_precision_checkpoint_is_cast_on_load_and_saved_in_float32(dtype, weights, tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "ft", a_config(chunk_size=20), seed=1)
    edit(folder / "config.json", dtype=dtype, use_amp=True)
    file = folder / "model.safetensors"
    cast = {name: tensor.to(weights) for name, tensor in load_file(file).items()}
    save_file(cast, file)
    path, overrides = starting_at(folder, tmp_path)
    assert check_config(path, overrides).cfg.policy.dtype == "float32"
    cfg = load_config(path, overrides).cfg
    assert cfg.policy.use_amp is False
    policy = built(cfg)
    assert all(p.dtype == torch.float32 for p in policy.module.parameters())
    again = save_pretrained(policy, tmp_path / "again", for_libero=True)
    assert json.loads((again / "config.json").read_text())["dtype"] == "float32"
    saved = load_file(again / "model.safetensors")
    assert all(torch.equal(saved[name], tensor.float()) for name, tensor in cast.items())
    assert PreTrainedConfig.from_pretrained(again).num_image_views == 3


def test_asking_for_half_precision_is_not_answered_by_a_cast(tmp_path):
    folder = write_tiny_checkpoint(tmp_path, a_config(), seed=1)
    asked = resolve_policy_path({"path": str(folder), "dtype": "bfloat16"})
    assert asked["dtype"] == "bfloat16"
