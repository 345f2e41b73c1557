"""LeRobot's SmolVLA as a `FlowPolicy`.

SmolVLA predicts the velocity v of x_t = t noise + (1 - t) clean: the clean chunk is x_t - t v, and LeRobot's
sampler is Euler's. VLM and state are encoded once per decision into keys and values; the action expert trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lerobot.lerobot_types import TransitionKey
from lerobot.policies.common.vla_utils import make_att_2d_masks
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors
from lerobot.processor import NewLineTaskProcessorStep, TokenizerProcessorStep
from lerobot.utils.constants import (
    ACTION,
    OBS_LANGUAGE_ATTENTION_MASK,
    OBS_LANGUAGE_TOKENS,
    OBS_STATE,
)
from torch import Tensor, nn
from transformers import DynamicCache

from pirl.contract.clauses import broken, require_eval_mode
from pirl.contract.flow_policy import RawObservation
from pirl.contract.precision import FP32, require_tf32, switch_tf32
from pirl.errors import CheckpointError
from pirl.records import ActionSpec, Context, Observation, Prediction, TensorSpec

TOKENS, MASK = "language_tokens", "language_mask"
"""What SmolVLA reads besides pictures and state."""

TRAINED = (
    "model.vlm_with_expert.lm_expert.",
    "model.action_in_proj.",
    "model.action_out_proj.",
    "model.action_time_mlp_in.",
    "model.action_time_mlp_out.",
)
"""Beginnings of the names of what trains."""


def build_policy(
    policy_config: SmolVLAConfig,
    *,
    executed_dims: Sequence[int] | None,
    device: str | torch.device,
    seed: int,
) -> SmolVLAFlowPolicy:
    """The policy of a resolved config; random weights are a function of `seed`.

    Raises:
        CheckpointError: the weights do not fit the config.
    """
    config = deepcopy(policy_config)
    config.device = str(device)
    source = config.pretrained_path
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            policy = (
                SmolVLAPolicy(config)
                if source is None
                else SmolVLAPolicy.from_pretrained(source, config=config, strict=True)
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{source or config.vlm_model_name}: SmolVLA cannot be built of it",
                parts=[str(error)[:400]],
            ) from error
    return SmolVLAFlowPolicy(policy.float().to(device), executed_dims=executed_dims)


def stock_batch(observation: Observation, *, device: torch.device) -> dict[str, Tensor]:
    """The observation under LeRobot's keys, images in [0, 1]."""
    batch = {
        key: image.to(device).float() / torch.tensor(255.0, device=device)
        for key, image in observation.images.items()
    }
    batch[OBS_STATE] = observation.state.to(device)
    batch[OBS_LANGUAGE_TOKENS] = observation.inputs[TOKENS].to(device)
    batch[OBS_LANGUAGE_ATTENTION_MASK] = observation.inputs[MASK].to(device)
    return batch


class SmolVLAFlowPolicy:
    """SmolVLA behind the contract; everything but `TRAINED` is frozen."""

    sampler, no_decay, trains_encoder = "euler", frozenset[str](), False

    def __init__(
        self, policy: SmolVLAPolicy, *, executed_dims: Sequence[int] | None = None
    ) -> None:
        config = policy.config
        self.module = policy
        self._model: Any = policy.model
        self._width = int(config.action_feature.shape[0])
        self.cameras = tuple(config.image_features)
        self.spec = ActionSpec(
            action_mode="auto",
            chunk_size=config.chunk_size,
            executed_steps=config.n_action_steps,
            model_dim=config.max_action_dim,
            env_dim=self._width,
            denoising_steps=config.num_steps,
            executed_dims=tuple(range(self._width) if executed_dims is None else executed_dims),
            hidden_gripper_dims=(),
            group_of_dim=("other",) * config.max_action_dim,
        )
        vlm = self._model.vlm_with_expert
        text: Any = vlm.config.text_config
        vision: Any = vlm.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        self.primary_view_shape = (patches // vlm.config.scale_factor**2, int(text.hidden_size))
        self.critic_width = 2 * int(text.hidden_size) + int(config.max_state_dim)
        self.feature_width = int(vlm.expert_hidden_size)
        self.inputs = {
            TOKENS: TensorSpec(
                dtype=torch.int64,
                shape=(1, config.tokenizer_max_length),
                low=0,
                high=int(text.vocab_size) - 1,
            ),
            MASK: TensorSpec(dtype=torch.bool, shape=(1, config.tokenizer_max_length)),
        }
        self._words: dict[str, dict[str, Tensor]] = {}
        for name, parameter in policy.named_parameters():
            parameter.requires_grad_(name.startswith(TRAINED))
        policy.eval()
        if self.device.type == "cuda":
            switch_tf32(FP32)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self._model.action_in_proj.weight.device

    def prepare(self, raw: RawObservation, instruction: str) -> Observation:
        """Pictures and state as they are; words as LeRobot's own processor steps make them."""
        if instruction not in self._words:
            self._words[instruction] = self._tokenize(instruction)
        return Observation(
            images={key: torch.from_numpy(v).unsqueeze(0) for key, v in raw.images.items()},
            state=torch.from_numpy(raw.state).unsqueeze(0),
            inputs=self._words[instruction],
        )

    def _tokenize(self, instruction: str) -> dict[str, Tensor]:
        config = self.module.config
        step = TokenizerProcessorStep(
            tokenizer=self._model.vlm_with_expert.processor.tokenizer,
            padding=config.pad_language_to,
            padding_side="right",
            max_length=config.tokenizer_max_length,
        )
        task = {
            TransitionKey.OBSERVATION: {},
            TransitionKey.COMPLEMENTARY_DATA: {"task": [instruction]},
        }
        seen = step(NewLineTaskProcessorStep()(task))[TransitionKey.OBSERVATION]
        mask = seen[OBS_LANGUAGE_ATTENTION_MASK].bool()
        return {TOKENS: seen[OBS_LANGUAGE_TOKENS], MASK: mask}

    def encode(self, observation: Observation, *, gradient: bool = False) -> Context:
        """Keys and values of the VLM's prefix, as LeRobot's sampler makes them.

        Raises:
            ContractError: train mode, TF32, or pictures of a camera that the policy has not.
        """
        self._guard()
        unknown = sorted(set(observation.images) - set(self.cameras))
        if unknown or not observation.images:
            raise broken(
                "observation",
                value=sorted(observation.images),
                expected=f"one or more of the policy's cameras {list(self.cameras)}",
                fix="match the environment's camera names with policy.input_features",
            )
        batch = stock_batch(observation, device=self.device)
        with torch.no_grad():
            images, image_masks = self.module.prepare_images(batch)
            state = self.module.prepare_state(batch)
            prefix, pads, attends = self._model.embed_prefix(
                images,
                image_masks,
                batch[OBS_LANGUAGE_TOKENS],
                batch[OBS_LANGUAGE_ATTENTION_MASK],
                state=state,
            )
            (seen, _), cache = self._model.vlm_with_expert.forward(
                attention_mask=make_att_2d_masks(pads, attends),
                position_ids=torch.cumsum(pads, dim=1) - 1,
                past_key_values=None,
                inputs_embeds=[prefix, None],
                use_cache=True,
            )
        tensors = {"pads": pads, "view": seen[:, : self.primary_view_shape[0]]}
        for index, layer in enumerate(cache.layers):
            tensors[f"keys.{index}"], tensors[f"values.{index}"] = layer.keys, layer.values
        words = batch[OBS_LANGUAGE_ATTENTION_MASK].unsqueeze(-1)
        told = seen[:, -1 - words.shape[1] : -1] * words
        pooled = told.sum(dim=1) / words.sum(dim=1).clamp(min=1)
        return Context(
            tensors=tensors,
            critic_features=torch.cat([tensors["view"].mean(dim=1), pooled, state], dim=-1),
        )

    def primary_view(self, context: Context) -> Tensor:
        """The VLM's tokens of the first camera."""
        return context.tensors["view"]

    def predict(self, context: Context, x: Tensor, t: Tensor) -> Prediction:
        """Clean chunk from the predicted velocity, and what the last projection reads."""
        self._guard()
        cache = DynamicCache()
        tensors, index = context.tensors, 0
        while f"keys.{index}" in tensors:
            cache.update(tensors[f"keys.{index}"], tensors[f"values.{index}"], index)
            index += 1
        read: list[Tensor] = []
        handle = self._model.action_out_proj.register_forward_pre_hook(
            lambda _, arguments: read.append(arguments[0])
        )
        try:
            velocity = self._model.denoise_step(tensors["pads"], cache, x, t)
        finally:
            handle.remove()
        return Prediction(clean=x - t[:, None, None] * velocity, features=read[0])

    def postprocess(self, chunk: Tensor) -> Tensor:
        """The dims that the robot has."""
        return chunk[..., : self._width].clone()

    def trained_parameters(self) -> Mapping[str, nn.Parameter]:
        """The action expert and its projections."""
        return {n: p for n, p in self.module.named_parameters() if n.startswith(TRAINED)}

    def frozen_parameters(self) -> Mapping[str, nn.Parameter]:
        """The VLM and the projection of the state."""
        return {n: p for n, p in self.module.named_parameters() if not n.startswith(TRAINED)}

    def demo_batch(self, observation: Observation, actions: Tensor) -> dict[str, Tensor]:
        """The observation and what the expert did."""
        return stock_batch(observation, device=self.device) | {ACTION: actions.to(self.device)}

    def demo_loss(self, batch: Mapping[str, Tensor], *, rng: torch.Generator) -> Tensor:
        """SmolVLA's own loss, with noise and flow times from `rng`."""
        self._guard()
        seed = int(torch.randint(2**62, (), generator=rng))
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            loss, _ = self.module.forward(dict(batch))
        return loss

    def save(self, folder: Path, *, env_type: str) -> Path:
        """Weights, config and processors, as LeRobot writes them."""
        self.module.save_pretrained(folder)
        for pipeline in make_smolvla_pre_post_processors(self.module.config):
            pipeline.save_pretrained(folder)
        return folder

    def _guard(self) -> None:
        require_eval_mode(self.module.modules())
        require_tf32(self.device, FP32)
