"""What a learning run is asked for: the `learn` section of `learning/settings.yaml`, read strictly.

Owns names, defaults and their reading. Refuses to run anything. Read `pirl.learning.proof` next.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import draccus
from draccus.utils import DraccusException

from pirl.config.recipe import VARIANTS
from pirl.config.yamlfile import read_section
from pirl.errors import ConfigError, FieldError
from pirl.resources import locate

PARAMS = Path("learning/settings.yaml")

CONTROLS = {
    "shuffled": ("--pirl.shuffle_advantages=true",),
    # An fp32 weight does not change when 1e-30 is added; a rate of zero is refused as a mistake.
    "zero-rate": (
        "--pirl.actor_lr=1e-30",
        "--pirl.actor_lr_max=null",
        "--pirl.lr_schedule=constant",
        "--pirl.target_kl=null",
    ),
    "dropout": (),
}
"""Negative controls and the overrides that make them; `dropout` runs `pirl.learning.dropout_learner`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """How to make the starting policy; the defaults leave it accurate but too slow."""

    demos_per_task: int = 120
    demos: str | None = None
    """A data set of `pirl bench demos`; null collects `demos_per_task` on the way."""
    speed: float = 0.65
    """The expert is slowed by this."""
    noise: float = 0.3
    """Execution noise, uniform, action units: metres on LIBERO."""
    picture_every: int = 1
    """One training row per this many control steps; LIBERO's pictures are what demonstrations cost."""
    steps: int = 1600
    batch: int = 64
    """Action chunks per step."""
    learning_rate: float = 1e-3
    """At the first step; falls to zero along a cosine."""
    grad_clip: float = 10.0
    """LeRobot's preset for X-VLA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a run must show, fixed before it starts."""

    start_low: float = 0.25
    start_high: float = 0.5
    end: float = 0.95
    """Share of held-out episodes that succeed after the last update."""
    env_steps: int = 120_000
    """Simulator steps of training, at most."""
    control_gain: float = 0.15
    """A control must not end further above its start."""
    misled: float | None = None
    """Share of episodes that may succeed when told another task's instruction; null only counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnSettings:
    """One learning run."""

    variant: str = "flow-sde"
    seed: int = 0
    """Of demonstrations, warm start, training and start noise; held-out states are the same for all."""
    control: str | None = None
    """A negative control (`CONTROLS`), or null."""
    actors: int = 1
    episodes: int = 100
    """Held-out episodes per task, at the start and for every checkpoint."""
    evaluation_envs: int = 16
    evaluation_workers: int = 2
    deadline_s: float = 1200.0
    """Training counts as failed after this long."""
    config: str | None = None
    """Train config; null takes the variant's own."""
    overrides: tuple[str, ...] = ()
    """Dotted overrides of the train config."""
    start_from: str | None = None
    """A `pretrained_model/` folder to start from; null makes one."""
    warm_start: WarmStart = field(default_factory=WarmStart)
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def config_path(self) -> str:
        """The train config of this run."""
        name = self.variant.replace("-", "_")
        return self.config or f"configs/train_config_pirl_learn_{name}.json"

    @property
    def all_overrides(self) -> list[str]:
        """Overrides of the config, the control's and the seed's included."""
        control = CONTROLS[self.control] if self.control else ()
        return [*self.overrides, *control, f"--seed={self.seed}"]


def read_settings(path: Path = PARAMS, **given: object) -> LearnSettings:
    """The section `learn` of a YAML file; what is given and not None goes on top.

    Raises:
        ConfigError: unknown key, wrong type, unknown variant or control.
    """
    found = settings_from(read_section(locate(path), "learn", field="--params"))
    found = replace(found, **{name: value for name, value in given.items() if value is not None})
    if found.variant not in VARIANTS:
        raise _wrong("learn.variant", found.variant, f"one of {', '.join(VARIANTS)}")
    if found.control is not None and found.control not in CONTROLS:
        raise _wrong("learn.control", found.control, f"one of {', '.join(CONTROLS)}, or null")
    return found


def settings_from(values: dict[str, Any]) -> LearnSettings:
    """Settings from plain values, as YAML and `learn.json` hold them.

    Raises:
        ConfigError: unknown key or wrong type.
    """
    try:
        return draccus.decode(LearnSettings, values)
    except DraccusException as error:
        raise _wrong("learn", values, f"the keys of LearnSettings ({error})") from error


def _wrong(name: str, value: object, expected: str) -> ConfigError:
    error = FieldError(
        field=name, value=value, expected=expected, fix="correct learning/settings.yaml"
    )
    return ConfigError([error], source="learning/settings.yaml")
