"""The plug-ins installed, a SmolVLA of 90 k parameters with a VLM folder made here, and configs that use both."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
)

PLUGINS = Path(__file__).parents[3] / "plugins"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<fake>", "<global>", "<image>")
WORDS = (*SPECIAL, "move", "the", "ball", "to", "red", "blue", "disc")
IMAGE = "observation.images.image"


def install(target: Path) -> list[str]:
    """Write the metadata of every distribution in `plugins/`; the folders that belong on the path."""
    for folder in sorted(PLUGINS.iterdir()):
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        info = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True)
        named = f"Name: {project['name']}\nVersion: {project['version']}\n"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\n{named}")
        lines = [
            f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())
            for group, entries in project["entry-points"].items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
    return [str(target), *(str(folder) for folder in sorted(PLUGINS.iterdir()))]


def write_vlm(folder: Path) -> Path:
    """Config, tokenizer and processor of a tiny SmolVLM, with random weights made by LeRobot later.

    Idefics3's processor, because SmolVLM's own asks for a package that only videos need.
    """
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={
            "fake_image_token": "<fake>",
            "global_image_token": "<global>",
            "image_token": "<image>",
            "end_of_utterance_token": "</s>",
        },
    )
    Idefics3Processor(Idefics3ImageProcessor(), tokenizer).save_pretrained(folder)
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    text = dict(
        model_type="llama",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=32,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    config = SmolVLMConfig(
        vision_config={**vision, "image_size": 64, "patch_size": 16},
        text_config=text,
        scale_factor=2,
        image_token_id=6,
        pad_token_id=0,
    )
    config.save_pretrained(folder)
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
