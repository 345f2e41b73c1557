"""X-VLA as a kind of policy: what the door needs to know of it before torch is imported.

Owns nothing but the answers' places. Imports neither torch nor LeRobot; `build`, `policy` and `stock` do when
somebody asks for a network. Read `pirl.policies.xvla.policy` next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pirl.config import after_init
from pirl.config.kinds import IMAGE_PREFIX, ActionFacts, Row, action_width
from pirl.config.view import View
from pirl.contract.registry import PolicyKind
from pirl.errors import ConfigError, FieldError
from pirl.policies.xvla import rules, starting, unfit, views
from pirl.policies.xvla.domain import domain_id_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pirl.policies.xvla.policy import XVLAFlowPolicy
    from pirl.records import Observation


@final
class XVLAKind(PolicyKind):
    """LeRobot's `xvla`."""

    precisions = ("fp32", "tf32", "bf16-frozen")
    rules = rules.RULES

    def config_class(self) -> type:
        """`XVLAConfig`."""
        from lerobot.policies.xvla.configuration_xvla import XVLAConfig

        return XVLAConfig

    def action(self, view: View) -> ActionFacts:
        """The action mode; None where there is none of the name."""
        mode = view.text("policy.action_mode")
        known = mode if mode in rules.ACTION_MODES else None
        return ActionFacts(field="policy.action_mode", space=known, width=action_width(view))

    def settle(self, policy_config: Any) -> None:
        """LeRobot counts the empty cameras of a saved config twice, takes an action mode in any letters and
        normalises nothing that it has no statistics for.
        """
        views.count_views_once(policy_config)
        policy_config.action_mode = policy_config.action_mode.lower()
        starting.settle_normalization(policy_config)

    def cameras(self, policy_config: Any) -> tuple[str, ...]:
        """Without the empty ones."""
        return tuple(n for n in super().cameras(policy_config) if not views.is_empty(n))

    def seen(self, view: View) -> list[str]:
        """Without the empty ones."""
        return [name for name in super().seen(view) if not views.is_empty(name)]

    def leave_out(self, view: View, cameras: Sequence[str]) -> str:
        """LeRobot pads the views whose pictures are not there; their number has to stay."""
        inputs = view.section("policy.input_features") or {}
        kept = {name: feature for name, feature in inputs.items() if name not in cameras}
        count = max(view.integer("policy.num_image_views") or 0, rules.views_needed(view))
        return f"set policy.input_features={json.dumps(kept)} and policy.num_image_views={count}"

    def template(
        self, policy_config: Any, *, without: Sequence[str]
    ) -> Mapping[str, Sequence[Row]]:
        """As `leave_out`."""
        if not without:
            return {}
        features = {
            name: {"type": feature.type.name, "shape": list(feature.shape)}
            for name, feature in policy_config.input_features.items()
            if name not in without
        }
        said = ", ".join(name.removeprefix(IMAGE_PREFIX) for name in without)
        trained = "as trained; the views without pictures are padding"
        rows = [
            ("input_features", features, f"without {said}, which the environment lacks"),
            ("num_image_views", self.views(policy_config), trained),
        ]
        return {"policy": rows}

    def views(self, policy_config: Any) -> int:
        """Cameras, empty cameras and padding."""
        return views.view_count(policy_config)

    def identity(self, policy_config: Any) -> Mapping[str, str | int]:
        """The embodiment of the soft prompt."""
        return {"domain_id": domain_id_of(policy_config)}

    def start_errors(self, policy_config: Any) -> list[FieldError]:
        """Features that X-VLA cannot do without, then what RL needs and what the checkpoint's files say."""
        try:
            after_init.check_features(policy_config)
        except ValueError as error:
            wrong = FieldError(
                field="policy.input_features",
                value=sorted(policy_config.input_features or {}),
                expected=str(error),
                fix="change policy.input_features so that it holds",
            )
            return [wrong]
        start = starting.read_start(policy_config)
        return [*unfit.unfit_fields(policy_config), *starting.start_errors(policy_config, start)]

    def start_table(self, policy_config: Any) -> dict[str, str]:
        """Views, action mode, vocabulary and, with a checkpoint, its embodiment and weights."""
        return starting.start_table(policy_config, starting.read_start(policy_config))

    def build(
        self,
        policy_config: Any,
        *,
        executed_dims: Sequence[int] | None,
        device: str | torch.device,
        seed: int,
        train_scope: str,
        precision: str,
    ) -> XVLAFlowPolicy:
        """See `pirl.policies.xvla.build.build_policy`."""
        from pirl.policies.xvla.build import build_policy

        if not isinstance(policy_config, self.config_class()):
            wrong = FieldError(
                field="policy.type",
                value=type(policy_config).__name__,
                expected="LeRobot's own XVLAConfig",
                fix="load the config with pirl.load_config",
            )
            raise ConfigError([wrong])
        return build_policy(
            policy_config,
            executed_dims=executed_dims,
            device=device,
            seed=seed,
            train_scope=train_scope,
            precision=precision,
        )

    def load_stock(self, folder: Path) -> nn.Module:
        """`XVLAPolicy.from_pretrained`."""
        from lerobot.policies.xvla.modeling_xvla import XVLAPolicy

        # Strict by itself: its argument `strict` is never read.
        return XVLAPolicy.from_pretrained(folder)

    def stock_generate(self, stock: Any, observation: Observation, noise: Tensor) -> Tensor:
        """See `pirl.policies.xvla.stock.stock_generate`."""
        from pirl.policies.xvla.stock import stock_generate

        return stock_generate(stock, observation, noise)


KIND = XVLAKind()
