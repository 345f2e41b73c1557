"""How much memory a learner process will take, by parts, and the refusal of a run that does not fit.

Owns the account of an update, a publication and a save. What a row costs is measured on one
(`pirl.algorithm.memory`), the rest follows from sizes. `python -m benchmarks memory` compares it with what a
process really took. Read `pirl.runtime.learner` for its use.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

import psutil
import torch

from pirl.algorithm.memory import row_bytes
from pirl.decision import VALID_STEPS
from pirl.errors import EnvironmentNotReadyError
from pirl.files import human_bytes
from pirl.records import Observation
from pirl.runtime.batch import STATE_KEY
from pirl.runtime.session import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerMemory:
    """Bytes of one learner process beyond what it has with its networks built."""

    gradients: int
    moments: int
    """Of AdamW."""
    contexts: int
    """Of its own rows; twice where they are put together."""
    activations: int
    """Of one micro-batch."""
    batch: int
    """Decisions in main memory: as they came, and as one batch."""
    demonstrations: int
    """Rows that stay prepared; other than the rest kept from one update to the next."""
    published: int
    """A copy of the trained weights, and its message; after the gradients are gone."""
    saved: int
    """The largest file of a checkpoint, which is put together in memory."""

    @property
    def device(self) -> int:
        """On the device of the networks, at the peak of an update."""
        return self.gradients + self.moments + self.contexts + self.activations

    @property
    def host(self) -> int:
        """In main memory at the peak, with the networks on an accelerator."""
        return self.demonstrations + self.batch + max(self.published, self.saved)

    @property
    def together(self) -> int:
        """In main memory at the peak, with the networks there too."""
        update = self.gradients + self.contexts + self.activations + self.batch
        kept = self.moments + self.demonstrations
        return kept + max(update, self.batch + self.published, self.saved)

    def __str__(self) -> str:
        return ", ".join(f"{name} {human_bytes(size)}" for name, size in asdict(self).items())


def learner_memory(session: Session, *, rows: int, processes: int) -> LearnerMemory:
    """The account of one of `processes` learner processes for updates of `rows` decisions."""
    cfg, schema, algorithm = session.loaded.cfg, session.schema, session.algorithm
    pirl = cfg.pirl
    zeros = {name: torch.zeros(spec.shape, dtype=spec.dtype) for name, spec in schema.info.items()}
    zeros[VALID_STEPS].fill_(session.policy.spec.executed_steps)
    state = {name: torch.zeros(spec.shape, dtype=spec.dtype) for name, spec in schema.state.items()}
    inputs = {
        name: torch.full(spec.shape, spec.low or 0, dtype=spec.dtype)
        for name, spec in session.policy.inputs.items()
    }
    observation = Observation(
        images={name: value for name, value in state.items() if name != STATE_KEY},
        state=state[STATE_KEY],
        inputs=inputs,
    )
    row = row_bytes(algorithm.networks, observation=observation, recorded=zeros)
    trained = sum(p.numel() * p.element_size() for p in algorithm.networks.parameters().values())
    published = sum(t.numel() * t.element_size() for t in algorithm.published_like().values())
    weights = sum(t.numel() * t.element_size() for t in session.policy.module.state_dict().values())
    own = -(-rows // processes)
    shown = algorithm.demonstrations
    predictions = min(pirl.micro_batch, rows) * row.predictions
    held = min(predictions, pirl.recompute_activations or predictions)
    seen = sum(spec.num_bytes for spec in schema.state.values())
    return LearnerMemory(
        # Several processes sum them in one buffer, which the gradients then are views of.
        gradients=trained,
        moments=2 * trained,
        contexts=2 * own * row.context,
        activations=held * row.activations // row.predictions,
        # A store holds each picture once, a batch as what was seen and as what came next.
        batch=rows * (schema.bytes_per_transition + schema.bytes_per_transition + seen),
        demonstrations=0 if shown is None else shown.most_bytes,
        published=3 * published,
        saved=max(weights, 2 * trained),
    )


def require_memory(session: Session, *, processes: int) -> LearnerMemory:
    """Stop before the first rollout when an update cannot fit; otherwise say what it will take.

    Args:
        processes: of the learner; each asks for itself.

    Raises:
        EnvironmentNotReadyError: with the parts, what is needed and what is free.
    """
    cfg, bounds = session.loaded.cfg, session.bounds
    rows = min(bounds.max_decisions, 2 * bounds.min_decisions) * cfg.runtime.actors
    account = learner_memory(session, rows=rows, processes=processes)
    device = session.policy.device
    free = psutil.virtual_memory().available
    on_cpu = device.type == "cpu"
    logger.info(
        "memory for %d decisions per update, beyond the networks: %s (%s)",
        rows,
        human_bytes(account.together if on_cpu else account.device),
        account,
    )
    _require("main memory", account.together if on_cpu else account.host, free, account)
    if device.type == "cuda":
        _require(str(device), account.device, torch.cuda.mem_get_info(device)[0], account)
    return account


def _require(where: str, need: int, free: int, account: LearnerMemory) -> None:
    if need <= free:
        return
    raise EnvironmentNotReadyError(
        f"an update does not fit into {where}: needs {human_bytes(need)}, {human_bytes(free)} free ({account})",
        remedy="set pirl.recompute_activations or lower pirl.micro_batch (activations), lower "
        "runtime.rollout_chunks (contexts, batch), or share the rows out with more learner processes "
        "(parallelism.dp_replicate)",
    )
