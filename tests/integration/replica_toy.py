"""Updates of a toy policy by W processes that share them, for `test_replicas.py`; run by `pirl.gate.forked`.

Every process makes the same batch, keeps its own rows' observations and writes what it has afterwards into a file.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "algorithm"))

from toys import a_batch
from update_cases import CASES, an_algorithm_of, run_case

from pirl.algorithm.pi_rl import metric_row
from pirl.checkpoint.digests import tensor_hashes
from pirl.errors import NumericsError, ParityError
from pirl.records import DecisionBatch
from pirl.runtime.seat import own_seat
from pirl.runtime.team import Team


def share(team: Team, batch: DecisionBatch) -> DecisionBatch:
    """As the first process hands it out and another one receives it."""
    if team.rank == 0:
        return team.share(batch)
    team.next_command()
    return team.receive()


# -- what goes wrong in one process ----------------------------------------------------------------


def lied(batch: DecisionBatch, row: int) -> DecisionBatch:
    lie = batch.fields["pirl_logprob"].clone()
    lie[row] += 1.0
    return replace(batch, fields={**batch.fields, "pirl_logprob": lie})


def two_lies(team: Team) -> dict[str, Any]:
    """Of two actors; the processes that own the rows find them, and all say the same."""
    algorithm = an_algorithm_of(CASES["flow-sde"], team)
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
    algorithm = an_algorithm_of(CASES["flow-sde"], team)
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
        said[name], tensors = run_case(case, an_algorithm_of(case, team), partial(share, team))
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
