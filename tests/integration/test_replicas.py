"""One, two and three processes that share updates, against one process: gradients, weights, stops and faults."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "algorithm"))

from replica_fault import WAIT_S
from update_cases import CASES, GRADIENT, METRIC, WEIGHT, Found, an_algorithm_of, run_case

from pirl.gate import forked
from pirl.runtime.seat import seats_here
from pirl.runtime.team import Solo

pytestmark = [pytest.mark.integration]

SIZES = (1, 2, 3)
DEADLINE_S = 240.0


@dataclass(frozen=True)
class Together:
    """What all processes of one start wrote."""

    out: Path
    size: int

    def said(self, name: str) -> list[Any]:
        texts = [(self.out / f"{rank}.json").read_text() for rank in range(self.size)]
        return [json.loads(text)[name] for text in texts]

    def tensors(self, name: str) -> list[dict[str, torch.Tensor]]:
        return [load_file(self.out / f"{name}-{rank}.safetensors") for rank in range(self.size)]


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Together]:
    found = {}
    for size in SIZES:
        out = tmp_path_factory.mktemp(f"{size}-processes")
        seats = (
            seats_here(size, out) if size > 1 else [{**seats_here(2, out)[0], "WORLD_SIZE": "1"}]
        )
        with forked.ForkedGroup() as group:
            processes = [
                group.start("replica_toy", [str(out)], env=seat, log_path=out / f"{rank}.log")
                for rank, seat in enumerate(seats)
            ]
            codes = [forked.wait(process, DEADLINE_S) for process in processes]
        assert codes == [0] * size, "\n".join(p.read_text()[-3000:] for p in out.glob("*.log"))
        found[size] = Together(out, size)
    return found


@cache
def alone(name: str) -> Found:
    return run_case(CASES[name], an_algorithm_of(CASES[name]), Solo().share)


@pytest.mark.parametrize("name", CASES)
def test_one_process_of_a_team_computes_the_bits_of_one_without(starts, name: str):
    (rows,), (tensors,) = starts[1].said(name), starts[1].tensors(name)
    assert rows == alone(name)[0]
    assert tensors.keys() == alone(name)[1].keys()
    assert [n for n, t in alone(name)[1].items() if not torch.equal(t, tensors[n])] == []


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_the_first_step_is_that_of_one_process(starts, size: int, name: str):
    expected = {n: t for n, t in alone(name)[1].items() if n.startswith("gradient/")}
    assert expected
    for tensors in starts[size].tensors(name):
        assert {n for n in tensors if n.startswith("gradient/")} == expected.keys()
        for n, gradient in expected.items():
            torch.testing.assert_close(tensors[n], gradient, rtol=0.0, atol=GRADIENT)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_weights_and_state_after_the_updates_are_those_of_one_process(starts, size: int, name: str):
    expected = {n: t for n, t in alone(name)[1].items() if n.startswith("after/")}
    first, *others = starts[size].tensors(name)
    for n, value in expected.items():
        torch.testing.assert_close(first[n], value, rtol=0.0, atol=WEIGHT, msg=n)
        # Among themselves to the bit, or they would drift apart.
        assert all(torch.equal(other[n], first[n]) for other in others), n


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_metrics_are_those_of_one_process(starts, size: int, name: str):
    expected = alone(name)[0]
    for said in starts[size].said(name):
        for row, other in zip(expected, said, strict=True):
            assert row.keys() == other.keys()
            wrong = {
                n: (value, other[n])
                for n, value in row.items()
                # A mean over micro-batches, which are other rows here.
                if n != "update/noise_std_mean"
                and other[n] != pytest.approx(value, rel=METRIC, abs=METRIC)
            }
            assert wrong == {}


def test_the_early_stop_comes_at_the_same_step_everywhere(starts):
    row = alone("early stop")[0][0]
    assert row["update/epochs"] < 4 or row["update/optimiser_steps"] < 12
    for size in (2, 3):
        for said in starts[size].said("early stop"):
            assert said[0]["update/optimiser_steps"] == row["update/optimiser_steps"]


@pytest.mark.parametrize("size", [2, 3])
def test_lies_of_two_actors_are_found_by_their_owners_and_told_by_all(starts, size: int):
    for said in starts[size].said("two_lies"):
        assert {int(episode) for episode in said["gaps"]} == {1, 3}
        assert "replayed log-prob differs" in said["text"]
        assert said["unchanged"]
        assert (said["updates"], said["kl"] > 0.0) == (1, True)


@pytest.mark.parametrize("size", [2, 3])
def test_a_value_that_is_not_finite_in_one_process_stops_all_of_them(starts, size: int):
    first, *others = starts[size].said("not_finite")
    assert first["kind"] == "NumericsError"
    assert first["text"].startswith(f"learner process {size - 1}: ")
    assert others == [first] * (size - 1)


@pytest.mark.parametrize("size", [2, 3])
def test_one_other_bit_in_one_process_is_named_with_tensor_and_process(starts, size: int):
    for said in starts[size].said("other_weights"):
        assert "transformer.action_decoder.weight" in said["text"]
        assert f"in process {size - 1}" in said["text"]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_said_arrives_whole_and_in_the_order_of_ranks(starts, size: int):
    expected = [[rank, 1000 * rank, True] for rank in range(size)]
    assert starts[size].said("many_words") == [{"told": expected}] * size


@pytest.mark.parametrize(("fault", "at_most_s"), [("dies", 2.0), ("silent", 2 * WAIT_S)])
def test_a_process_that_is_lost_in_the_middle_of_an_update_ends_it(
    tmp_path: Path, fault: str, at_most_s: float
):
    out = tmp_path / "seen.json"
    with forked.ForkedGroup() as group:
        first, _ = (
            group.start(
                "replica_fault", [fault, str(out)], env=seat, log_path=tmp_path / f"{rank}.log"
            )
            for rank, seat in enumerate(seats_here(2, tmp_path))
        )
        assert forked.wait(first, DEADLINE_S) == 0, (tmp_path / "0.log").read_text()
    seen = json.loads(out.read_text())
    said = {
        "dies": "learner process 1 is gone",
        "silent": "another learner process is gone, or silent for 4 s",
    }
    assert said[fault] in seen["text"]
    assert (seen["asked"], seen["seconds"] < at_most_s) == (3, True), seen
