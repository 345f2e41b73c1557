"""A complete X-VLA of about 0.3 M parameters, for tests, the smoke profile and the learning proof.

Owns the tiny geometry, its 128-word tokenizer and how a checkpoint of it is written. Refuses to be
anything but a stock `XVLAConfig`: everything downstream treats it like the 0.9 B policy. Read
`pirl.policies.xvla.build` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.xvla.configuration_xvla import XVLAConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pirl.policies.xvla.build import build_policy

TOKENIZER_PATH = "configs/tokenizer_tiny"
"""Relative to the repository root, as LeRobot resolves names: against the working directory."""

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
"""Ids 0 to 3, BART's own."""

LIBERO_WORDS = (
    "akita alphabet and at back basket bbq between black book both bottle bottom bowl box "
    "butter cabinet caddy center cheese chocolate close compartment cookies cream drawer "
    "dressing from front frying in inside it juice ketchup layer left microwave middle milk "
    "moka mug next of off on open orange pan pick place plate pot pots pudding push put rack "
    "ramekin red right salad sauce shelf soup stack stove table the them to tomato top tray "
    "turn under up white wine wooden yellow"
)
"""Every word of the instructions of the four LIBERO suites and of LIBERO-90."""

METAWORLD_WORDS = (
    "a bin button by bypass coffee cover dial door down faucet goal grasp gripper hammer handle "
    "hole insert into lever lock machine nut onto out peg position press puck pull reach rotate "
    "screw sideways slide soccer stick sweep unlock unplug wall window with"
)
"""The most frequent further words of LeRobot's MetaWorld task descriptions; the rest is `<unk>`."""

METAWORLD_TOKENIZER_PATH = "configs/tokenizer_metaworld"
"""For policies of several MetaWorld tasks: the vocabulary above is full and lacks "clockwise"."""

EVERY_METAWORLD_WORD = (
    ", - 180 90 a and another basket basketball bin box button by bypass cabinet clockwise "
    "close coffee counter cover degrees dial door down drawer dunk faucet from get goal grasp "
    "gripper hammer handle hole insert into it joint kick lever lock machine mug nut of off "
    "on one onto open out peg pick place plate position press puck pull push reach revolving "
    "rotate rotating screw shelf sideways slide soccer stick sweep table the to top under "
    "unlock unplug up using wall window with"
)
"""Every word and sign of LeRobot's MetaWorld task descriptions."""

PATCH_STRIDE = 16
"""Pixels per image token and axis: strides 8 and 2."""

ACTION_WIDTH = {
    "ee6d": 20,
    "joint": 14,
    "so101_bimanual": 12,
    "agibot_ee6d": 20,
    "franka_joint7": 7,
}
"""Environment action width of the modes that fix it; `auto` takes `action_dim`."""


def tiny_xvla_config(
    action_mode: str = "ee6d",
    *,
    chunk_size: int = 12,
    n_action_steps: int = 10,
    num_denoising_steps: int = 5,
    image_size: int = 64,
    views: int = 2,
    empty_cameras: int = 1,
    state_dim: int = 20,
    action_dim: int = 20,
    num_domains: int = 1,
    tokenizer_max_length: int = 24,
    tokenizer_name: str = TOKENIZER_PATH,
) -> XVLAConfig:
    """A tiny X-VLA; the defaults fit LIBERO (ee6d, 20 dims, two views and an empty one, state of
    20).

    Source of the geometry: the smallest X-VLA that was seen to learn from 64-pixel images.

    Args:
        image_size: height and width of every view, pixels.
        views: cameras `observation.images.image`, `image2`, ...
        state_dim: proprioception width; the hidden-gripper modes need 14 (`joint`) or 20.
        action_dim: real action width of `auto`; ignored by the modes that fix theirs.
    """
    names = [f"{OBS_IMAGES}.image{'' if i == 0 else i + 1}" for i in range(views)]
    inputs = {
        name: PolicyFeature(type=FeatureType.VISUAL, shape=(3, image_size, image_size))
        for name in names
    }
    inputs[OBS_STATE] = PolicyFeature(type=FeatureType.STATE, shape=(state_dim,))
    width = ACTION_WIDTH.get(action_mode, action_dim)
    tokens = 1 + ceil(image_size / PATCH_STRIDE) ** 2
    sequence = chunk_size + tokens * (views + empty_cameras) + tokenizer_max_length
    return XVLAConfig(
        input_features=inputs,
        output_features={ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(width,))},
        device="cpu",
        push_to_hub=False,
        chunk_size=chunk_size,
        n_action_steps=n_action_steps,
        num_denoising_steps=num_denoising_steps,
        florence_config=_florence_config(max_positions=tokens + tokenizer_max_length),
        tokenizer_name=tokenizer_name,
        tokenizer_max_length=tokenizer_max_length,
        hidden_size=64,
        depth=2,
        num_heads=4,
        num_domains=num_domains,
        len_soft_prompts=4,
        dim_time=16,
        max_len_seq=max(128, sequence),
        action_mode=action_mode,
        max_state_dim=state_dim,
        max_action_dim=action_dim,
        num_image_views=views + empty_cameras,
        empty_cameras=empty_cameras,
        resize_imgs_with_padding=(image_size, image_size),
    )


def tiny_metaworld_config(
    *, chunk_size: int = 4, num_denoising_steps: int = 2, image_size: int = 64
) -> XVLAConfig:
    """The tiny X-VLA of the embedded MetaWorld profile: `auto`, 4-dim action and state, one view.

    An empty camera gives the auxiliary-view projection tokens to work on; without any, a part of
    the trained transformer could never change.
    """
    return tiny_xvla_config(
        "auto",
        chunk_size=chunk_size,
        n_action_steps=chunk_size,
        num_denoising_steps=num_denoising_steps,
        image_size=image_size,
        views=1,
        empty_cameras=1,
        state_dim=4,
        action_dim=4,
        tokenizer_max_length=8,
    )


def _florence_config(*, max_positions: int) -> dict[str, Any]:
    """Two-stage DaViT and a one-layer BART encoder, in the native `transformers` format."""
    return {
        "vision_config": {
            "depths": [1, 1],
            "patch_size": [8, 3],
            "patch_stride": [8, 2],
            "patch_padding": [0, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [32, 64],
            "num_heads": [2, 4],
            "num_groups": [2, 4],
            "window_size": 4,
            "drop_path_rate": 0.0,
            "projection_dim": 64,
        },
        "text_config": {
            "model_type": "bart",
            "vocab_size": 128,
            "d_model": 64,
            "encoder_layers": 1,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": max_positions,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
        },
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "image_token_id": 127,
    }


def write_tiny_tokenizer(folder: str | Path) -> Path:
    """Write the tiny tokenizer as `AutoTokenizer` files; same bytes every time."""
    return _write_tokenizer(folder, sorted(LIBERO_WORDS.split()) + sorted(METAWORLD_WORDS.split()))


def write_metaworld_tokenizer(folder: str | Path) -> Path:
    """As `write_tiny_tokenizer`, with every word of MetaWorld's instructions and none of LIBERO's."""
    return _write_tokenizer(folder, EVERY_METAWORLD_WORD.split())


def _write_tokenizer(folder: str | Path, known: Sequence[str]) -> Path:
    words = [*SPECIAL_TOKENS, *known]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    files = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    )
    files.save_pretrained(str(folder))
    return Path(folder)


def write_tiny_checkpoint(folder: str | Path, config: XVLAConfig, seed: int) -> Path:
    """A randomly initialised checkpoint in the format of the 0.9 B one; `ee6d` is saved for
    LIBERO."""
    policy = build_policy(config, executed_dims=None, device="cpu", seed=seed)
    env_type = "libero" if config.action_mode == "ee6d" else "pirl_metaworld"
    return policy.save(Path(folder), env_type=env_type)
