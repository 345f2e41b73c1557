"""Configuration: knobs, strict loading, rules and identity.

Importing this package costs nothing: it pulls in neither torch nor LeRobot, and nor does checking a
config (`pirl.config.check`). The doors to LeRobot are `pirl.config.train` (the config class),
`pirl.config.load` (decodes into it) and `pirl.config.snapshot`. Read `pirl.config.recipe` next.
"""

from __future__ import annotations

from pirl.config.recipe import (
    PROTOCOL_VERSION,
    RECIPE,
    VARIANTS,
    FlowNoiseConfig,
    FlowSDEConfig,
    LastStepStd,
    PiRLConfig,
    RuntimeConfig,
)

__all__ = [
    "PROTOCOL_VERSION",
    "RECIPE",
    "VARIANTS",
    "FlowNoiseConfig",
    "FlowSDEConfig",
    "LastStepStd",
    "PiRLConfig",
    "RuntimeConfig",
]
