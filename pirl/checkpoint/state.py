"""Where a run stands, beside its weights and its optimiser.

Owns the record that a learner hands over and gets back. Refuses to know files. Read
`pirl.checkpoint.digests` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pirl.checkpoint.manifest import canonical
from pirl.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands. Equal runs have equal states: no clock, no host, no process id."""

    run_id: str
    step: int
    """Updates completed; names the step folder."""
    policy_version: int
    config_path: str
    """`ConfigIdentity.path` of the config that the run started with; for the record only."""
    counters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON; totals that go on counting (decisions, episodes, environment steps)."""
    env_cursor: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON; which episode each environment slot runs next."""
    generators: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """`torch.Generator.get_state()` of every private generator, by name; uint8."""

    def __post_init__(self) -> None:
        """Refuse what no file can carry, before anything is written.

        Raises:
            CheckpointError: `counters` or `env_cursor` is not JSON, or not finite.
        """
        for name, content in (("counters", self.counters), ("env_cursor", self.env_cursor)):
            try:
                canonical(content)
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"run state: {name} cannot be stored: {error}") from error
