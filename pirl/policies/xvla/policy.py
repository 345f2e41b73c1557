"""LeRobot's X-VLA behind the flow-policy protocol; the only door to it.

Owns how raw observations become tokens, which parameters train, and what X-VLA must not be when it
is trained by RL (half precision, train mode, normalised actions). Refuses to know samplers, noise
and losses. Read `pirl.policies.xvla.build` next.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float
from lerobot.policies.xvla.modeling_xvla import XVLAModel, XVLAPolicy
from lerobot.utils.constants import ACTION, OBS_LANGUAGE_TOKENS, OBS_STATE
from torch import Tensor, nn

from pirl.contract.clauses import broken, require_eval_mode
from pirl.contract.flow_policy import RawObservation
from pirl.contract.precision import BF16_FROZEN, FP32, require_tf32, switch_tf32
from pirl.policies.xvla.action_modes import action_mode_of, make_action_spec
from pirl.policies.xvla.domain import domain_id_of
from pirl.policies.xvla.inputs import (
    DOMAIN_ID,
    INPUT_IDS,
    check_image_size,
    check_observation,
    declared_view_shape,
    real_cameras,
    seen_views,
)
from pirl.policies.xvla.processors import (
    imagenet_normalize,
    save_processors,
    tokenize_instruction,
)
from pirl.policies.xvla.unfit import refuse_unfit_config
from pirl.policies.xvla.views import is_empty
from pirl.records import ActionSpec, Context, Observation, Prediction, TensorSpec

TRAINED_PREFIX = "model.transformer."
DOMAIN_TABLES = ("soft_prompt_hub", "action_encoder", "action_decoder")
"""Parts of names of parameters with a row for every domain."""

VLM, AUX, PROPRIO = "vlm_features", "aux_visual_inputs", "proprio"
"""Names of a context's tensors, beside `domain_id`."""

TRAINED_PREFIXES = {"transformer": TRAINED_PREFIX, "all": "model."}
"""What each `pirl.train_scope` trains, by the beginning of a parameter's name."""


class XVLAFlowPolicy:
    """X-VLA as a `FlowPolicy`. Trains what `train_scope` says, freezes every other parameter by name.

    Args:
        policy: a stock policy; switched to eval mode, its `requires_grad` flags set.
        executed_dims: model action dims that the robot executes; None means all real dims of the
            mode.
        train_scope: a key of `TRAINED_PREFIXES`.
        precision: of `pirl.precision`; `bf16-frozen` rounds the VLM's weights for good.

    Raises:
        ContractError: the policy cannot be trained by RL as it is; all reasons at once.
        ConfigError: `executed_dims` does not fit the action mode.
    """

    def __init__(
        self,
        policy: XVLAPolicy,
        *,
        executed_dims: Sequence[int] | None = None,
        train_scope: str = "transformer",
        precision: str = FP32,
    ) -> None:
        config = policy.model.config
        refuse_unfit_config(config)
        self._policy = policy
        self._model = policy.model
        space = policy.model.action_space
        mode = action_mode_of(
            config.action_mode.lower(),
            auto_real_dim=int(getattr(space, "real_dim", 0)),
            auto_model_dim=int(space.dim_action),
        )
        self._spec = make_action_spec(
            config.action_mode.lower(),
            mode,
            chunk_size=config.chunk_size,
            executed_steps=config.n_action_steps,
            denoising_steps=config.num_denoising_steps,
            executed_dims=executed_dims,
        )
        self._cameras = tuple(real_cameras(config))
        self._words: dict[str, Tensor] = {}
        florence: Any = policy.model.vlm.config
        self._pad_id = int(florence.text_config.pad_token_id)
        self._view_shape = declared_view_shape(policy.model)
        self._state_dim = config.max_state_dim
        self._modules = tuple(policy.modules())
        self._trained_prefix = TRAINED_PREFIXES[train_scope]
        for name, parameter in policy.named_parameters():
            # By name: LeRobot's freeze flags leave the multi-modal projector trainable.
            parameter.requires_grad_(name.startswith(self._trained_prefix))
        self.eval_mode()
        self.precision = precision
        """Its mode of `pirl.precision`."""
        if precision == BF16_FROZEN:
            _keep_in_bfloat16(policy.model)
        if self.device.type == "cuda":
            switch_tf32(precision)

    @property
    def spec(self) -> ActionSpec:
        """Shape and meaning of the action chunk."""
        return self._spec

    @property
    def module(self) -> XVLAPolicy:
        """The stock policy."""
        return self._policy

    @property
    def cameras(self) -> tuple[str, ...]:
        """The real ones; LeRobot pads the rest."""
        return self._cameras

    @cached_property
    def domain_id(self) -> int:
        """Embodiment of the starting checkpoint: which soft prompt speaks.

        Raises:
            CheckpointError, ConfigError: its files do not say.
        """
        return domain_id_of(self._model.config)

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Token ids [1, L] below the vocabulary, and the one domain id of the run [1]."""
        length, words = self._model.config.tokenizer_max_length, self.vocabulary
        where = self.domain_id
        return {
            DOMAIN_ID: TensorSpec(dtype=torch.int64, shape=(1,), low=where, high=where),
            INPUT_IDS: TensorSpec(dtype=torch.int64, shape=(1, length), low=0, high=words - 1),
        }

    def prepare(self, raw: RawObservation, instruction: str) -> Observation:
        """Pictures and state as they are; words as LeRobot's own tokenizer step makes them.

        Raises:
            EnvironmentNotReadyError, ConfigError: the tokenizer cannot be had or does not fit.
            CheckpointError: the checkpoint's domain id cannot be read.
        """
        if instruction not in self._words:
            self._words[instruction] = tokenize_instruction(self._model.config, instruction)
        return Observation(
            images={key: torch.from_numpy(v).unsqueeze(0) for key, v in raw.images.items()},
            state=torch.from_numpy(raw.state).unsqueeze(0),
            inputs={
                INPUT_IDS: self._words[instruction],
                DOMAIN_ID: torch.tensor([self.domain_id]),
            },
        )

    @property
    def sampler(self) -> str:
        """X-VLA interpolates from the start noise anew at every step."""
        return "native"

    @property
    def critic_width(self) -> int:
        """F: primary view, text, further views (if the robot has any), proprio; all pooled."""
        pooled = 3 if len(self._cameras) > 1 else 2
        return pooled * self._view_shape[1] + int(self._model.dim_proprio)

    @property
    def feature_width(self) -> int:
        """W: width of the transformer."""
        return int(self._model.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """Token ids are below this: rows of the text encoder's embedding."""
        return int(self._model.vlm.get_input_embeddings().num_embeddings)

    @property
    def primary_view_shape(self) -> tuple[int, int]:
        """(tokens, Wv) of the primary view: the first tokens of the VLM's features."""
        return self._view_shape

    def primary_view(self, context: Context) -> Float[Tensor, "B T Wv"]:
        """The first tokens of the VLM's features."""
        return context.tensors[VLM][:, : self._view_shape[0]]

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self._model.transformer.pos_emb.device

    def eval_mode(self) -> None:
        """Put every module back in eval mode; for use after foreign code that called `train()`."""
        self._policy.eval()

    def trained_parameters(self) -> Mapping[str, nn.Parameter]:
        """`model.transformer.*`: blocks, projections, position, action coders, soft prompts; with
        scope `all` also `model.vlm.*`."""
        return {
            name: parameter
            for name, parameter in self._policy.named_parameters()
            if name.startswith(self._trained_prefix)
        }

    @property
    def no_decay(self) -> frozenset[str]:
        """The tables with a row per domain: rows of unused domains get no gradient."""
        names = self.trained_parameters()
        return frozenset(n for n in names if any(part in n for part in DOMAIN_TABLES))

    def frozen_parameters(self) -> Mapping[str, nn.Parameter]:
        """Everything else: all of `model.vlm.*`, or nothing with scope `all`."""
        return {
            name: parameter
            for name, parameter in self._policy.named_parameters()
            if not name.startswith(self._trained_prefix)
        }

    @property
    def trains_encoder(self) -> bool:
        """True with scope `all`."""
        return self._trained_prefix != TRAINED_PREFIX

    def encode(self, observation: Observation, *, gradient: bool = False) -> Context:
        """Vision-language features of raw observations, and the critic's features of them.

        Images are scaled by 1/255 and ImageNet-normalised with the floats of LeRobot's LIBERO path;
        views that are missing are padded by LeRobot. Rotation of simulator images is the
        environment's part.

        Args:
            gradient: keep the graph to `model.vlm.*`; without effect unless `trains_encoder`.

        Raises:
            ContractError: train mode, a half-precision copy, or an observation of another robot.
        """
        self._guard()
        batch = self.stock_batch(observation)
        # LeRobot's own view order, padding and state padding: a copy of it here would drift.
        inputs: dict[str, Any] = self._policy._build_model_inputs(batch)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        dtype, images = self._dtype, inputs["image_input"]
        check_image_size(self._model, tuple(images.shape[-2:]), tokens=self._view_shape[0])
        with torch.set_grad_enabled(gradient and self.trains_encoder):
            features = self._model.forward_vlm(
                inputs["input_ids"], images.to(dtype), inputs["image_mask"]
            )
        proprio = inputs["proprio"].to(dtype)
        return Context(
            tensors={
                VLM: features[VLM],
                AUX: features[AUX],
                PROPRIO: proprio,
                DOMAIN_ID: inputs["domain_id"],
            },
            critic_features=self._pool(
                features, proprio, inputs["input_ids"], views=len(seen_views(observation))
            ).detach(),
        )

    def predict(
        self, context: Context, x: Float[Tensor, "B C D"], t: Float[Tensor, " B"]
    ) -> Prediction:
        """Clean chunk and action-token features; gradients reach the transformer, and `context`'s graph
        if it has one."""
        self._guard()
        encoded = context.tensors
        proprio, visible = self._model.action_space.preprocess(encoded[PROPRIO], x)
        with _output_of(self._model.transformer.norm) as normed:
            clean = self._model.transformer(
                domain_id=encoded[DOMAIN_ID],
                vlm_features=encoded[VLM],
                aux_visual_inputs=encoded[AUX],
                action_with_noise=visible,
                proprio=proprio,
                t=t,
            )
        # The final LayerNorm already reads action tokens only.
        return Prediction(clean=clean, features=normed[0])

    def postprocess(self, chunk: Float[Tensor, "B C D"]) -> Tensor:
        """Environment chunk [B, C, A]. Trap: X-VLA's own applies the gripper sigmoid in place."""
        return self._model.action_space.postprocess(chunk.clone())

    def demo_loss(self, batch: Mapping[str, Tensor], *, rng: torch.Generator) -> Tensor:
        """X-VLA's supervised loss, differentiable; noise and flow times come from `rng`.

        Args:
            batch: what LeRobot's X-VLA preprocessor yields, or `stock_batch` plus the demonstrated
                `action` [B, C, D].
        """
        self._guard()
        seed = int(torch.randint(2**62, (), generator=rng))
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            loss, _ = self._policy.forward(dict(batch))
        return loss

    def stock_batch(self, observation: Observation) -> dict[str, Tensor]:
        """The observation under LeRobot's keys, on the policy's device, images normalised."""
        check_observation(observation, cameras=self._cameras, state_dim=self._state_dim)
        device = self.device
        images = {key: observation.images[key].to(device) for key in seen_views(observation)}
        batch = imagenet_normalize(images)
        batch[OBS_STATE] = observation.state.to(device)
        batch[OBS_LANGUAGE_TOKENS] = observation.inputs[INPUT_IDS].to(device)
        domain = observation.inputs[DOMAIN_ID].to(device)
        batch[self._model.config.domain_feature_key or "domain_id"] = domain
        return batch

    def demo_batch(
        self, observation: Observation, actions: Float[Tensor, "B C A"]
    ) -> dict[str, Tensor]:
        """`stock_batch` and the demonstrated actions."""
        return self.stock_batch(observation) | {ACTION: actions.to(self.device)}

    def save(self, folder: Path, *, env_type: str) -> Path:
        """Config, weights, processors, tokenizer. Nothing of pirl's own.

        `lerobot-eval` runs LIBERO processors of its own, which normalise images; those that are saved for
        `libero` do not (`pirl.policies.xvla.processors`).
        """
        self._policy.save_pretrained(folder)
        config = deepcopy(self._model.config)
        # LeRobot adds a feature per empty camera when it builds a policy, and would count them twice on
        # loading a config that already lists them: one more padded view, other actions.
        features = config.input_features or {}
        config.input_features = {n: f for n, f in features.items() if not is_empty(n)}
        config.save_pretrained(folder)
        for_libero = env_type == "libero"
        save_processors(config, folder, for_libero=for_libero, domain_id=self.domain_id)
        return folder

    @property
    def _dtype(self) -> torch.dtype:
        return self._model.transformer.pos_emb.dtype

    def _guard(self) -> None:
        require_eval_mode(self._modules)
        if self._dtype not in (torch.float32, torch.float64):
            raise broken(
                "precision",
                value=str(self._dtype),
                expected="torch.float32 parameters",
                fix="load the policy with policy.dtype=float32 and do not cast it",
            )
        require_tf32(self.device, self.precision)

    def _pool(
        self, features: Mapping[str, Tensor], proprio: Tensor, input_ids: Tensor, *, views: int
    ) -> Tensor:
        """Critic features [B, F] (`algorithm.md` 8.2): padded words and views do not count."""
        tokens, width = self._view_shape
        vlm, aux = features[VLM], features[AUX]
        words = (input_ids != self._pad_id).to(vlm.dtype).unsqueeze(-1)
        parts = [
            vlm[:, :tokens].mean(dim=1),
            (vlm[:, tokens:] * words).sum(dim=1) / words.sum(dim=1).clamp(min=1),
        ]
        if len(self._cameras) > 1:
            seen = aux[:, : (views - 1) * tokens]
            parts.append(seen.mean(dim=1) if views > 1 else seen.new_zeros(len(seen), width))
        return torch.cat([*parts, proprio], dim=-1)


def _keep_in_bfloat16(model: Any) -> None:
    """Keep the VLM in bfloat16 between fp32 pictures and fp32 features, for LeRobot's own calls too."""
    model.vlm.to(torch.bfloat16)
    # A bound method, which `deepcopy` binds to the copy.
    model.forward_vlm = MethodType(_forward_bfloat16, model)


def _forward_bfloat16(
    model: Any, input_ids: Any, pixel_values: Any, image_mask: Tensor
) -> dict[str, Tensor]:
    features = XVLAModel.forward_vlm(model, input_ids, pixel_values.bfloat16(), image_mask)
    return {name: value.float() for name, value in features.items()}


@contextmanager
def _output_of(module: nn.Module) -> Generator[list[Tensor]]:
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs.append(output)

    handle = module.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()
