"""Updates of a toy policy by W processes that share them, for `test_replicas.py`; run by `pirl.gate.forked`.

Every process makes the same batch, keeps its own rows' observations and writes what it has afterwards into a file.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "algorithm"))

from toys import EPISODES, Episode, ToyPolicy, a_batch, a_recipe, an_algorithm

from pirl.algorithm.pi_rl import PiRLAlgorithm, metric_row
from pirl.checkpoint.digests import tensor_hashes
from pirl.errors import NumericsError, ParityError
from pirl.records import DecisionBatch
from pirl.runtime.seat import own_seat
from pirl.runtime.team import Solo, Team

GROUPS = (
    Episode(rewards=(0.0, 1.0), group=0),
    Episode(rewards=(0.0, 0.0), truncated=True, group=0),
    Episode(rewards=(1.0,), group=1),
    Episode(rewards=(0.0, 0.0), truncated=True, group=1),
)
SMALL = {"global_batch": 4, "micro_batch": 2}
"""Eleven decisions in minibatches of four, four and three: with three processes some have none of them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe and what it trains on."""

    variant: str = "flow-sde"
    knobs: dict[str, Any] = field(default_factory=dict)
    episodes: Sequence[Episode] = EPISODES
    updates: int = 2
    stale: bool = False


CASES = {
    "flow-sde": Case(),
    "flow-noise": Case(variant="flow-noise"),
    "small minibatches": Case(knobs=SMALL),
    "small minibatches, flow-noise": Case(variant="flow-noise", knobs=SMALL),
    "critic epochs": Case(knobs={**SMALL, "value_epochs": 2, "value_buffer_updates": 2}),
    "reference": Case(knobs={**SMALL, "kl_beta": 0.1, "entropy_bonus": 0.01}),
    "open ends": Case(knobs={"bootstrap_on_truncation": True, "value_source": "action_tokens"}),
    "early stop": Case(knobs={**SMALL, "target_kl": 1e-5, "update_epochs": 4}),
    "adaptive rate": Case(knobs={"target_kl": 1e-3, "lr_schedule": "kl_adaptive"}),
    "demonstrations": Case(knobs={**SMALL, "bc_weight": 0.5}),
    "groups": Case(
        knobs={"adv_type": "grpo", "group_size": 2, "reward_filter": (0.1, 0.9)}, episodes=GROUPS
    ),
    "recorded anchor": Case(knobs={"recompute_proximal": False}, stale=True),
    "warm-up": Case(knobs={"critic_warmup_steps": 1}),
    "tokens": Case(knobs={"logprob_level": "token", "micro_batch": 1}),
}


def demonstrations():
    rng = torch.Generator().manual_seed(0)
    return itertools.cycle([{"action": torch.randn(4, 3, 3, generator=rng)} for _ in range(5)])


def an_algorithm_of(case: Case) -> PiRLAlgorithm:
    policy = ToyPolicy(
        chunk_size=3, executed_steps=2, dims=3, denoising_steps=4, hidden=16, dtype=torch.float64
    )
    return an_algorithm(policy, a_recipe(case.variant, **case.knobs), demo_batches=demonstrations())


def share(team: Team | Solo, batch: DecisionBatch) -> DecisionBatch:
    """As the first process hands it out and another one receives it."""
    if isinstance(team, Solo) or team.rank == 0:
        return team.share(batch)
    team.next_command()
    return team.receive()


def run_case(case: Case, team: Team | Solo) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The metric rows, and weights, state and the gradient of the first step by name."""
    algorithm = an_algorithm_of(case)
    if isinstance(team, Team):
        algorithm.replicas = team
    first: dict[str, torch.Tensor] = {}

    def keep(*_: object) -> None:
        found = {f"gradient/{n}": g.clone() for n, g in algorithm._nets.gradients().items()}
        first.update({} if first else found)

    algorithm.get_optimizers()["pi_rl"].register_step_pre_hook(keep)
    rows = []
    for version in range(case.updates):
        acted = version - 1 if case.stale and version else None
        batch = a_batch(algorithm, episodes=case.episodes, version=version, acted=acted)
        rows.append(metric_row(algorithm.update(iter([share(team, batch)]))))
    state = {**algorithm.get_weights(), **algorithm.state_dict(), **algorithm.training_state()}
    return {"rows": rows}, {**first, **{f"after/{n}": t.contiguous() for n, t in state.items()}}


# -- what goes wrong in one process ----------------------------------------------------------------


def lied(batch: DecisionBatch, row: int) -> DecisionBatch:
    lie = batch.fields["pirl_logprob"].clone()
    lie[row] += 1.0
    return replace(batch, fields={**batch.fields, "pirl_logprob": lie})


def two_lies(team: Team) -> dict[str, Any]:
    """Of two actors; the processes that own the rows find them, and all say the same."""
    algorithm = an_algorithm_of(CASES["flow-sde"])
    algorithm.replicas = team
    before = tensor_hashes(algorithm.live_tensors())
    batch = a_batch(algorithm)
    said: dict[str, Any] = {}
    # Row 4 is of episode 1, row 9 of episode 3.
    try:
        algorithm.update(iter([share(team, lied(lied(batch, 4), 9))]))
    except ParityError as error:
        said = {"gaps": error.gaps, "text": str(error)}
    said["unchanged"] = tensor_hashes(algorithm.live_tensors()) == before
    row = metric_row(algorithm.update(iter([share(team, batch)])))
    return said | {"updates": algorithm.updates, "kl": row["update/approx_kl"]}


def not_finite(team: Team) -> dict[str, Any]:
    """The observation of one row is not a number: one process sees it."""
    algorithm = an_algorithm_of(CASES["flow-sde"])
    algorithm.replicas = team
    batch = share(team, a_batch(algorithm))
    if team.rank == team.size - 1:
        batch.observation.state[0] = float("nan")
    try:
        algorithm.update(iter([batch]))
    except NumericsError as error:
        return {"kind": type(error).__name__, "text": str(error)}
    return {}


def other_weights(team: Team) -> dict[str, Any]:
    """One process has one other number in one tensor."""
    algorithm = an_algorithm_of(CASES["flow-sde"])
    team.compare_own(tensor_hashes(algorithm.live_tensors()))
    weight = algorithm.policy.module.transformer["action_decoder"].weight
    if team.rank == team.size - 1:
        with torch.no_grad():
            weight[0, 0] += 1e-12
    try:
        team.compare_own(tensor_hashes(algorithm.live_tensors()))
    except NumericsError as error:
        return {"text": str(error)}
    return {}


def many_words(team: Team) -> dict[str, Any]:
    """Values of any length and every number, in the order of ranks."""
    told = team.exchange({"rank": team.rank, "long": "x" * (1000 * team.rank), "third": 1 / 3})
    return {"told": [[one["rank"], len(one["long"]), one["third"] == 1 / 3] for one in told]}


FAULTS: dict[str, Callable[[Team], dict[str, Any]]] = {
    f.__name__: f for f in (two_lies, not_finite, other_weights, many_words)
}


def main(argv: Sequence[str]) -> int:
    """`OUT`: the folder for the files of all cases."""
    torch.set_num_threads(1)
    out, seat = Path(argv[0]), own_seat()
    team = Team(seat, wait_s=120.0, command_s=120.0, device="cpu", stop=threading.Event())
    said: dict[str, Any] = {}
    for name, case in CASES.items():
        said[name], tensors = run_case(case, team)
        save_file(tensors, out / f"{name}-{seat.rank}.safetensors")
    for name, fault in FAULTS.items():
        said[name] = fault(team)
    (out / f"{seat.rank}.json").write_text(json.dumps(said))
    if seat.rank == 0:
        team.end(0)
    else:
        assert team.next_command()[1] == 0
        team.leave()
    return 0
