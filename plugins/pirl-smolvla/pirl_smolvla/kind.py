"""SmolVLA as a kind of policy: what a config is judged by, and who builds.

Imports neither torch nor LeRobot before it is asked for a class or a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pirl.config.kinds import ActionFacts, Row, action_width
from pirl.config.recipe import PiRLConfig
from pirl.config.rules_policy import executed_dims_errors
from pirl.config.view import ABSENT, WRONG, View
from pirl.contract.registry import PolicyKind
from pirl.errors import FieldError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pirl.records import Observation
    from pirl_smolvla.policy import SmolVLAFlowPolicy

FIXED: Mapping[str, tuple[object, str]] = {
    "policy.pad_language_to": ("max_length", "decisions of different tasks share a batch"),
    "policy.adapt_to_pi_aloha": (False, "states and actions are in the environment's units"),
    "policy.compile_model": (False, "parity of actor and learner is that of eager kernels"),
    "policy.use_cache": (True, "an observation is encoded once per decision"),
    "policy.load_vlm_weights": (False, "the VLM's weights are those of the checkpoint"),
    "policy.rtc_config": (None, "a chunk depends on one observation"),
    "policy.prefix_length": (-1, "every token of the prefix is one that was seen"),
    "pirl.base_sampler": ("euler", "LeRobot samples SmolVLA so"),
    "pirl.train_scope": ("transformer", "the last VLM layers have no gradient to be trained by"),
    "pirl.gripper_mode": ("last_step", "SmolVLA has no gripper logit"),
}
"""Fields that RL on SmolVLA needs at one value, and why; `gripper_mode` may be `none` too."""


def check_smolvla(view: View) -> Iterator[FieldError]:
    """Nothing is padded by the batch, compiled, cached between decisions or normalised by statistics."""
    for name, (wanted, why) in FIXED.items():
        value = view.get(name)
        if value in (ABSENT, WRONG, wanted, "none"):
            continue
        yield FieldError(
            field=name, value=value, expected=f"{wanted}: {why}", fix=f"set {name}={wanted}"
        )
    for kind, mode in (view.section("policy.normalization_mapping") or {}).items():
        if isinstance(mode, str) and mode != "IDENTITY":
            yield FieldError(
                field=f"policy.normalization_mapping.{kind}",
                value=mode,
                expected="IDENTITY: actions are sampled and stored in the environment's units",
                fix="use a checkpoint that was trained without dataset statistics",
            )
    dims = view.integers("pirl.executed_dims")
    if dims is not None:
        yield from executed_dims_errors(dims, action_width(view))


@final
class SmolVLAKind(PolicyKind):
    """LeRobot's `smolvla`."""

    denoising_field = "policy.num_steps"
    rules = (check_smolvla,)

    def config_class(self) -> type:
        """`SmolVLAConfig`."""
        from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

        return SmolVLAConfig

    def action(self, view: View) -> ActionFacts:
        """As wide as the feature `action`."""
        return ActionFacts(field="policy.output_features", space="auto", width=action_width(view))

    def template(
        self, policy_config: Any, *, without: Sequence[str]
    ) -> Mapping[str, Sequence[Row]]:
        """Every value of `FIXED` that checkpoint or recipe would otherwise have differently."""
        del without
        found: dict[str, list[Row]] = {"policy": [], "pirl": []}
        for name, (wanted, why) in FIXED.items():
            section, _, leaf = name.partition(".")
            usual = getattr(policy_config if section == "policy" else PiRLConfig(), leaf)
            if usual != wanted:
                found[section].append((leaf, wanted, why))
        return found

    def identity(self, policy_config: Any) -> Mapping[str, str | int]:
        """The periods of its time embedding are in no tensor."""
        return {"min_period": policy_config.min_period, "max_period": policy_config.max_period}

    def build(
        self,
        policy_config: Any,
        *,
        executed_dims: Sequence[int] | None,
        device: str | torch.device,
        seed: int,
        train_scope: str,
        precision: str,
    ) -> SmolVLAFlowPolicy:
        """See `pirl_smolvla.policy.build_policy`."""
        from pirl_smolvla.policy import build_policy

        return build_policy(policy_config, executed_dims=executed_dims, device=device, seed=seed)

    def load_stock(self, folder: Path) -> nn.Module:
        """`SmolVLAPolicy.from_pretrained`."""
        from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

        return SmolVLAPolicy.from_pretrained(folder, strict=True)

    def stock_generate(self, stock: Any, observation: Observation, noise: Tensor) -> Tensor:
        """LeRobot's own `predict_action_chunk`, which takes the start noise."""
        from pirl_smolvla.policy import stock_batch

        batch = stock_batch(observation, device=noise.device)
        return stock.predict_action_chunk(batch, noise=noise)


KIND = SmolVLAKind()
