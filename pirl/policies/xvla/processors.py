"""Words, domain ids and the processor files of a checkpoint that stock LeRobot must be able to run.

Owns tokenisation and what `policy_preprocessor.json` holds. Refuses
to know weights. Read `pirl.policies.xvla.build` next.
"""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from lerobot.lerobot_types import TransitionKey
from lerobot.policies.xvla.configuration_xvla import XVLAConfig
from lerobot.policies.xvla.processor_xvla import (
    XVLAAddDomainIdProcessorStep,
    XVLAImageNetNormalizeProcessorStep,
    XVLAImageToFloatProcessorStep,
    make_xvla_pre_post_processors,
)
from lerobot.processor import PolicyProcessorPipeline, TokenizerProcessorStep
from lerobot.utils.constants import OBS_LANGUAGE_TOKENS
from torch import Tensor
from transformers import AutoTokenizer

from pirl.config.strictjson import read_bytes, read_json_object
from pirl.errors import EnvironmentNotReadyError
from pirl.policies.xvla.domain import PREPROCESSOR_FILE as PREPROCESSOR_FILE
from pirl.policies.xvla.domain import domain_id_of as domain_id_of
from pirl.policies.xvla.domain import first_line
from pirl.policies.xvla.tokenizer import (
    TOKENIZER_ENDINGS,
    TOKENIZER_MAX_BYTES,
    require_vocabulary,
    tokenizer_folder,
    tokenizer_source,
)

_TOKENIZER_CONFIG = "tokenizer_config.json"

type Pipeline = PolicyProcessorPipeline[Any, Any]


@lru_cache(maxsize=4)
def _load_tokenizer(source: str) -> Any:
    """The tokenizer of a folder or a hub repository; code that it brings along is never run.

    Raises:
        EnvironmentNotReadyError: it cannot be loaded, or wants to run code of its own.
    """
    _require_readable(Path(source))
    if _names_own_code(Path(source) / _TOKENIZER_CONFIG):
        raise _own_code(source)
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        # tokenizers raises nothing narrower for a damaged file.
        if "trust_remote_code" in str(error):
            raise _own_code(source) from error
        raise EnvironmentNotReadyError(
            f"tokenizer {source!r} cannot be loaded: {first_line(error)}",
            remedy="run from the repository root, or make the hub reachable, or set "
            "policy.tokenizer_name to a folder with tokenizer files",
        ) from error


def _require_readable(folder: Path) -> None:
    """Refuse what transformers would wait for or read until memory ends: it opens whatever has the name."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix not in TOKENIZER_ENDINGS or file.is_dir():
            continue
        try:
            read_bytes(file, max_bytes=TOKENIZER_MAX_BYTES)
        except (OSError, ValueError) as error:
            raise _unreadable(file, error) from error


def _names_own_code(file: Path) -> bool:
    """Whether a tokenizer's config asks for classes of its own, which transformers would offer to run."""
    try:
        return file.is_file() and "auto_map" in read_json_object(file)
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> EnvironmentNotReadyError:
    return EnvironmentNotReadyError(
        f"tokenizer file {file} cannot be read: {first_line(error)}",
        remedy="restore the file from where it came from, or set policy.tokenizer_name",
    )


def _own_code(source: str) -> EnvironmentNotReadyError:
    return EnvironmentNotReadyError(
        f"tokenizer {source!r} brings code of its own (auto_map), which pirl does not run",
        remedy="set policy.tokenizer_name to a tokenizer of a class that transformers has, and remove "
        "auto_map from its tokenizer_config.json",
    )


def tokenize_instruction(policy_config: XVLAConfig, text: str) -> Int64[Tensor, "1 L"]:
    """Token ids of an instruction, as LeRobot's own tokenizer step makes them.

    Raises:
        EnvironmentNotReadyError: the tokenizer is neither a folder here nor reachable on the hub.
        ConfigError: it has more words than the text encoder has embeddings.
    """
    tokenizer = _load_tokenizer(tokenizer_source(policy_config))
    require_vocabulary(policy_config, 1 + max(tokenizer.get_vocab().values()))
    step = TokenizerProcessorStep(
        tokenizer=tokenizer,
        max_length=policy_config.tokenizer_max_length,
        padding=policy_config.pad_language_to,
        padding_side=policy_config.tokenizer_padding_side,
    )
    transition = step(
        {TransitionKey.OBSERVATION: {}, TransitionKey.COMPLEMENTARY_DATA: {"task": [text]}}
    )
    return transition[TransitionKey.OBSERVATION][OBS_LANGUAGE_TOKENS]


def make_saved_processors(
    policy_config: XVLAConfig, *, for_libero: bool, domain_id: int = 0
) -> tuple[Pipeline, Pipeline]:
    """Pre- and postprocessor to save beside the weights.

    Trap: for an X-VLA policy `lerobot-eval` always runs LeRobot's LIBERO environment processors,
    which already scale and normalise images. With X-VLA's two image steps in the saved preprocessor
    the images would be normalised twice, so `for_libero` leaves exactly these two out.
    """
    _load_tokenizer(tokenizer_source(policy_config))
    found = deepcopy(policy_config)
    found.tokenizer_name = tokenizer_source(policy_config)
    pre, post = make_xvla_pre_post_processors(found)
    pre.steps = [step for step in pre.steps if not (for_libero and _is_image_step(step))]
    steps: list[Any] = list(pre.steps)
    for step in steps:
        if isinstance(step, TokenizerProcessorStep):
            step.tokenizer_name = policy_config.tokenizer_name
        if isinstance(step, XVLAAddDomainIdProcessorStep):
            step.domain_id = domain_id
    return pre, post


def _is_image_step(step: object) -> bool:
    return isinstance(step, (XVLAImageToFloatProcessorStep, XVLAImageNetNormalizeProcessorStep))


def save_processors(
    policy_config: XVLAConfig, folder: str | Path, *, for_libero: bool, domain_id: int
) -> None:
    """Write processors and tokenizer files into a checkpoint folder."""
    pre, post = make_saved_processors(policy_config, for_libero=for_libero, domain_id=domain_id)
    pre.save_pretrained(folder)
    post.save_pretrained(folder)
    tokenizer = _load_tokenizer(tokenizer_source(policy_config))
    tokenizer.save_pretrained(str(tokenizer_folder(policy_config, folder)))


def imagenet_normalize(images: dict[str, Tensor]) -> dict[str, Tensor]:
    """uint8 images to the floats of LeRobot's LIBERO path: /255, then its own ImageNet step.

    Dividing by a tensor, not by a number: CUDA multiplies by the reciprocal of a number, which is
    off by one unit in the last place.
    """
    floats = {
        name: image.float() / torch.tensor(255.0, device=image.device)
        for name, image in images.items()
    }
    step = XVLAImageNetNormalizeProcessorStep()
    return step({TransitionKey.OBSERVATION: floats})[TransitionKey.OBSERVATION]
