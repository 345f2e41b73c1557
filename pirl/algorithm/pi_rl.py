"""piRL as one of LeRobot's RL algorithms: the bridge from `RLAlgorithm` to `pirl.algorithm.update`.

Owns the critic, the noise head, the optimiser and the counters of a learner. Refuses to know
sockets, files and simulators. Read `docs/adr/0010-lerobot-rlalgorithm-bridge.md` for what of
LeRobot is reused and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.rl.algorithms.base import RLAlgorithm
from lerobot.rl.algorithms.configs import RLAlgorithmConfig, TrainingStats
from torch import Tensor
from torch.optim import AdamW, Optimizer

from pirl.algorithm.critic import Critic, ValueBuffer
from pirl.algorithm.demonstrations import Demonstrations, Imitation, bc_weight
from pirl.algorithm.diagnostics import UpdateStats
from pirl.algorithm.flow_noise import NoiseHead
from pirl.algorithm.networks import Networks, build_networks
from pirl.algorithm.objective import Counts, minibatch_losses
from pirl.algorithm.optim import OPTIMIZER, RateSchedule, learning_rates, make_optimizer
from pirl.algorithm.prepare import Prepared, prepare
from pirl.algorithm.replicas import ALONE, Replicas
from pirl.algorithm.report import metric_row, training_stats
from pirl.algorithm.update import Iteration, Limits
from pirl.config.recipe import PiRLConfig
from pirl.contract.flow_policy import FlowPolicy
from pirl.contract.precision import precision_of, tolerances
from pirl.errors import CheckpointError, ConfigError, FieldError, FieldMismatch, MismatchError
from pirl.records import DecisionBatch

__all__ = [
    "NOISE_HEAD_PREFIX",
    "BatchLosses",
    "PiRLAlgorithm",
    "PiRLAlgorithmConfig",
    "metric_row",
]

NOISE_HEAD_PREFIX = "noise_head."
"""Prefix of the noise head among published weights and in the algorithm's state."""

CRITIC_PREFIX = "critic."
REFERENCE_PREFIX = "reference."


@RLAlgorithmConfig.register_subclass("pi_rl")
@dataclass
class PiRLAlgorithmConfig(RLAlgorithmConfig):
    """What `PiRLAlgorithm` needs besides the policy itself."""

    pirl: PiRLConfig = field(default_factory=PiRLConfig)
    policy_config: PreTrainedConfig | None = None
    total_updates: int = 500
    """Length of the cosine schedule, in updates."""
    seed: int = 0
    """Root of every random draw of the learner."""

    @classmethod
    def from_policy_config(cls, policy_cfg: PreTrainedConfig) -> PiRLAlgorithmConfig:
        """A config for `policy_cfg`; the variant must still be set."""
        return cls(policy_config=policy_cfg)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLosses:
    """Losses and metrics of one batch, without a step."""

    total: Tensor
    """Differentiable; the sum of `algorithm.md` 10.4 without the demonstration term."""
    losses: Mapping[str, Tensor]
    """`policy_loss`, `value_loss`, `entropy`, `kl_reference`, `total_loss`."""
    metrics: Mapping[str, float]


class PiRLAlgorithm(RLAlgorithm):
    """PPO or GRPO over the chain of a flow policy; one `update` is one learner iteration."""

    config_class = PiRLAlgorithmConfig
    name = "pi_rl"

    def __init__(
        self,
        policy: FlowPolicy,
        config: PiRLAlgorithmConfig,
        *,
        parity_tol: float | None = None,
        ratio_tol: float | None = None,
        demonstrations: Demonstrations | None = None,
    ) -> None:
        """Build critic and noise head from the config's seed.

        Args:
            policy: what is trained; its VLM stays frozen.
            parity_tol: nats, see `RuntimeConfig.parity_tol`; None as there.
            ratio_tol: see `RuntimeConfig.ratio_tol`; None as there.
            demonstrations: as the attribute.
        """
        self.config = config
        self.replicas: Replicas = ALONE
        """Who else computes the updates; whoever sets it gives each process its share of the batches."""
        self.demonstrations = demonstrations
        """What the actor imitates beside RL; looked at only with `bc_weight > 0`, and needed then."""
        self._pirl, self._seed = config.pirl, config.seed
        self.policy = policy
        allowed = tolerances(
            precision_of(policy), device=policy.device.type, std=_least_std(policy, config.pirl)
        )
        self.limits = Limits(
            parity=allowed.parity if parity_tol is None else parity_tol,
            ratio=allowed.ratio if ratio_tol is None else ratio_tol,
        )
        """How far the live checks let an update's numbers lie apart."""
        self._nets = build_networks(policy, config.pirl, seed=config.seed)
        self._reference: dict[str, Tensor] | None = None
        if config.pirl.kl_beta > 0:
            trained = policy.trained_parameters()
            self._reference = {name: p.detach().clone() for name, p in trained.items()}
        self._schedule = RateSchedule(pirl=config.pirl, total_updates=config.total_updates)
        self._buffer = ValueBuffer(config.pirl.value_buffer_updates)
        self._optimizer: AdamW | None = None
        self._updates = 0

    @property
    def critic(self) -> Critic | None:
        """The value function; None with GRPO."""
        return self._nets.critic

    @property
    def noise_head(self) -> NoiseHead | None:
        """The std network; None with Flow-SDE."""
        return self._nets.noise_head

    @property
    def networks(self) -> Networks:
        """What trains."""
        return self._nets

    @property
    def updates(self) -> int:
        """Updates finished since the run began."""
        return self._updates

    def make_optimizers_and_scheduler(self) -> dict[str, Optimizer]:
        """A fresh AdamW over all parameter groups, as {"pi_rl": optimiser}."""
        self._optimizer = make_optimizer(
            self.policy.trained_parameters(),
            noise_head=self.noise_head,
            critic=self.critic,
            pirl=self._pirl,
            no_decay=self.policy.no_decay,
        )
        return self.get_optimizers()

    def get_optimizers(self) -> dict[str, Optimizer]:
        """{"pi_rl": optimiser}, empty before `make_optimizers_and_scheduler`."""
        return {} if self._optimizer is None else {OPTIMIZER: self._optimizer}

    def configure_data_iterator(
        self,
        data_mixer: Any,
        batch_size: int,
        *,
        async_prefetch: bool = False,
        queue_size: int = 1,
    ) -> Iterator[Any]:
        """Decision batches from the on-policy store, never prefetched.

        The next batch exists only after this update was published and acted on.
        """
        return data_mixer.get_iterator(
            batch_size=batch_size, async_prefetch=False, queue_size=queue_size
        )

    def update(self, batch_iterator: Iterator[Any]) -> TrainingStats:
        """One learner iteration on `next(batch_iterator)`, a `DecisionBatch`; `algorithm.md` 14.1.

        Raises:
            ParityError: recorded log-probs do not follow from their decisions; nothing has changed.
            NumericsError: the first ratio is off (weights untouched), or a value is not finite.
            ContractError: a decision lacks a log-prob that the recipe needs.
            ConfigError: `bc_weight` is set but no demonstrations were given.
        """
        imitation = self._imitation()
        batch: DecisionBatch = next(batch_iterator)
        if self._optimizer is None:
            self.make_optimizers_and_scheduler()
        optimizer = self._optimizer
        assert optimizer is not None
        train_actor = self._updates >= self._pirl.critic_warmup_steps
        self._schedule.apply(optimizer, update=self._updates)
        try:
            prepared = self._prepare(batch)
            stats = Iteration(
                nets=self._nets,
                prepared=prepared,
                optimizer=optimizer,
                buffer=self._buffer,
                seed=self._seed,
                limits=self.limits,
                train_actor=train_actor,
                imitation=imitation,
                replicas=self.replicas,
            ).run()
        finally:
            # Acting, evaluation and saving all start from eval mode (section 14.3).
            self.policy.module.eval()
        rates = learning_rates(optimizer)
        self._schedule.adapt(stats.approx_kl)
        self._updates += 1
        self.optimization_step = self.optimization_step + stats.optimiser_steps
        return training_stats(stats, prepared, batch, rates=rates, imitation=imitation)

    def _imitation(self) -> Imitation | None:
        """The demonstration term of the next update; None where it has none.

        Raises:
            ConfigError: as `update`.
        """
        weight = bc_weight(
            self._pirl, update=self._updates, total_updates=self._schedule.total_updates
        )
        if weight == 0:
            return None
        if self.demonstrations is None:
            wrong = FieldError(
                field="pirl.bc_weight",
                value=self._pirl.bc_weight,
                expected="0, or a learner that was given demonstrations",
                fix="set demonstrations of PiRLAlgorithm (pirl.runtime.demonstrations reads a LeRobotDataset),"
                " or set pirl.bc_weight to 0",
            )
            raise ConfigError([wrong])
        return Imitation(demos=self.demonstrations, weight=weight)

    def forward_batch(self, batch: DecisionBatch) -> BatchLosses:
        """Losses and named metrics of a batch of transitions, for either variant; changes nothing.

        The whole batch is one minibatch; `total.backward()` gives the gradient of the first step.
        """
        prepared = self._prepare(batch)
        rows = torch.arange(len(prepared), device=prepared.lag.device)
        losses = minibatch_losses(
            self._nets,
            prepared,
            rows,
            live=torch.ones_like(rows, dtype=torch.bool),
            counts=Counts.of(prepared, rows),
        )
        stats = UpdateStats()
        if losses.actor is not None:
            stats.ratio.add(losses.actor.surrogate, losses.actor.weight, mask=losses.actor.mask)
        named = {**prepared.metrics, **stats.ratio.metrics(), "approx_kl": stats.ratio.approx_kl}
        return BatchLosses(
            total=losses.total,
            losses=losses.terms(),
            metrics={f"update/{name}": value for name, value in named.items()},
        )

    def _prepare(self, batch: DecisionBatch) -> Prepared:
        self.policy.module.eval()
        return prepare(
            self._nets,
            batch,
            seed=self._seed,
            reference=self._reference,
            replicas=self.replicas,
        )

    def get_weights(self) -> dict[str, Any]:
        """Trained tensors on the CPU by policy state-dict name, noise head under `noise_head.`."""
        return {name: _on_cpu(value) for name, value in self._published().items()}

    def published_like(self) -> dict[str, Tensor]:
        """Names, shapes and dtypes of `get_weights` as meta tensors, which take no memory."""
        return {n: torch.empty_like(p, device="meta") for n, p in self._published().items()}

    def load_weights(self, weights: dict[str, Any], device: str | torch.device = "cpu") -> None:
        """Take over published weights in place; parameters stay on their device.

        Raises:
            MismatchError: a name, shape or dtype differs; nothing is loaded then.
        """
        _copy_strict(self._published(), weights, what="published weights")

    def live_tensors(self) -> dict[str, Tensor]:
        """What trains, and what the algorithm owns besides, by name; the tensors themselves."""
        return {**self._published(), **self._owned()}

    def _published(self) -> dict[str, Tensor]:
        named: dict[str, Tensor] = dict(self.policy.trained_parameters())
        if self.noise_head is not None:
            state = self.noise_head.state_dict(keep_vars=True)
            named |= {f"{NOISE_HEAD_PREFIX}{name}": value for name, value in state.items()}
        return named

    def _owned(self) -> dict[str, Tensor]:
        """Tensors of the algorithm that are not part of the policy."""
        owned: dict[str, Tensor] = {}
        for prefix, module in ((CRITIC_PREFIX, self.critic), (NOISE_HEAD_PREFIX, self.noise_head)):
            if module is not None:
                state = module.state_dict(keep_vars=True)
                owned |= {f"{prefix}{name}": value for name, value in state.items()}
        for name, value in (self._reference or {}).items():
            owned[f"{REFERENCE_PREFIX}{name}"] = value
        return owned

    def state_dict(self) -> dict[str, Tensor]:
        """Critic, noise head and the KL term's reference: everything that is not the policy."""
        return {name: _on_cpu(value) for name, value in self._owned().items()}

    def load_state_dict(
        self, state_dict: dict[str, Tensor], device: str | torch.device = "cpu"
    ) -> None:
        """Restore `state_dict` in place; optimisers keep pointing at the same parameters.

        Raises:
            MismatchError: a name, shape or dtype differs; nothing is loaded then.
        """
        _copy_strict(self._owned(), state_dict, what="algorithm state")

    def training_state(self) -> dict[str, Tensor]:
        """Schedule, counters and value buffer as flat tensors, for a safetensors file."""
        return {
            "updates": torch.tensor(self._updates, dtype=torch.int64),
            "optimization_step": torch.tensor(self.optimization_step, dtype=torch.int64),
            "lr_scale": torch.tensor(self._schedule.scale, dtype=torch.float64),
            **{f"value_buffer.{name}": value for name, value in self._buffer.state().items()},
        }

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `training_state` returned.

        Raises:
            CheckpointError: an entry is missing or unknown.
        """
        scalars = {"updates", "optimization_step", "lr_scale"}
        prefix = "value_buffer."
        buffered = {name for name in state if name.startswith(prefix)}
        wrong = scalars.symmetric_difference(set(state) - buffered)
        if wrong:
            raise CheckpointError("algorithm training state does not fit", parts=sorted(wrong))
        self._buffer.load(
            {name.removeprefix(prefix): state[name] for name in sorted(buffered)},
            device=self.policy.device,
        )
        self._updates = int(state["updates"])
        self.optimization_step = int(state["optimization_step"])
        self._schedule.scale = float(state["lr_scale"])


def _on_cpu(value: Tensor) -> Tensor:
    """A copy, made once whatever device the tensor is on."""
    return value.detach().to("cpu", copy=True)


def _copy_strict(target: Mapping[str, Tensor], source: Mapping[str, Tensor], *, what: str) -> None:
    """Copy `source` into `target`, all or nothing."""

    def kind(named: Mapping[str, Tensor], name: str) -> str:
        if name not in named:
            return "absent"
        return f"{str(named[name].dtype).removeprefix('torch.')}{list(named[name].shape)}"

    wrong = [
        FieldMismatch(field=name, ours=kind(target, name), theirs=kind(source, name))
        for name in sorted(set(target) | set(source))
        if kind(target, name) != kind(source, name)
    ]
    if wrong:
        raise MismatchError(what, wrong)
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(source[name])


def _least_std(policy: FlowPolicy, pirl: PiRLConfig) -> float:
    """Of the last step, over the dims that the robot executes."""
    groups = {policy.spec.group_of_dim[dim] for dim in policy.spec.executed_dims}
    return min(getattr(pirl.last_step_std, group) for group in groups)
