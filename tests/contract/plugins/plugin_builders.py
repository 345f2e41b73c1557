"""The plug-ins installed, a SmolVLA of 90 k parameters, and configs that use both."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT))

from benchmarks.second_policy import install as install  # noqa: E402

IMAGE = "observation.images.image"


def write_vlm(folder: Path) -> Path:
    """The tiny SmolVLM of the learning run, with four tokens per picture instead of one."""
    shutil.copytree(ROOT / "examples" / "second_policy" / "vlm", folder, dirs_exist_ok=True)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["scale_factor"] = 2
    config["vision_config"]["patch_size"] = 16
    file.write_text(json.dumps(config))
    return folder


def a_policy_section(vlm: Path, **changes: Any) -> dict[str, Any]:
    """The config section of the tiny SmolVLA, for `pointreach`."""
    section = {
        "type": "smolvla",
        "device": "cpu",
        "push_to_hub": False,
        "chunk_size": 3,
        "n_action_steps": 3,
        "num_steps": 3,
        "max_state_dim": 6,
        "max_action_dim": 4,
        "resize_imgs_with_padding": [64, 64],
        "tokenizer_max_length": 10,
        "pad_language_to": "max_length",
        "vlm_model_name": str(vlm),
        "num_vlm_layers": 2,
        "expert_width_multiplier": 1.0,
        "normalization_mapping": dict.fromkeys(("VISUAL", "STATE", "ACTION"), "IDENTITY"),
        "input_features": {
            IMAGE: {"type": "VISUAL", "shape": [3, 64, 64]},
            "observation.state": {"type": "STATE", "shape": [4]},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [2]}},
    }
    return section | changes


def a_config(vlm: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A train config of both plug-ins at the scale of a test."""
    tree = {
        "recipe": "pi-rl",
        "seed": 1,
        "policy": a_policy_section(vlm),
        "env": {"type": "pointreach", "task": "reach-red", "episode_length": 9},
        "pirl": {
            "variant": "flow-sde",
            "flow_sde": {"noise_level": 0.5},
            "base_sampler": "euler",
            "global_batch": 8,
            "micro_batch": 4,
            "update_epochs": 1,
            "value_hidden": [16],
        },
        "runtime": {
            "rollout_chunks": 8,
            "total_updates": 2,
            "envs_per_actor": 2,
            "env_workers": 1,
            "checkpoint_every_updates": 1,
        },
    }
    for name, changes in sections.items():
        tree[name] = tree.get(name, {}) | changes
    return tree


def write_config(file: Path, tree: dict[str, Any]) -> Path:
    """`tree` as the config file `file`."""
    file.write_text(json.dumps(tree))
    return file
