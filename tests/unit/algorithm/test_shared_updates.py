"""What an update asks of the other processes, and updates of two and three of them against one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from replica_threads import Thread, in_threads
from toys import a_batch, an_observation
from update_cases import CASES, GRADIENT, METRIC, WEIGHT, Found, an_algorithm_of, run_case

from pirl.algorithm.replicas import (
    ALONE,
    Part,
    agreed,
    gathered,
    most_owned,
    own_rows,
    owned_among,
    spread,
)
from pirl.errors import NumericsError, ParityError
from pirl.records import DecisionBatch
from pirl.runtime.batch import packed, unpacked


def of(rank: int, size: int) -> Thread:
    """One of several that asks nothing of the others."""
    return Thread(rank, [[]] * size)


# -- rows ------------------------------------------------------------------------------------------


def test_every_row_of_a_batch_has_one_owner():
    assert [own_rows(of(r, 3), 8).tolist() for r in range(3)] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert own_rows(of(2, 3), 2).tolist() == []
    assert own_rows(ALONE, 3).tolist() == [0, 1, 2]


def test_the_owners_of_some_rows_have_them_in_the_given_order():
    rows = torch.tensor([7, 2, 4, 1])
    assert [owned_among(of(r, 3), rows).tolist() for r in range(3)] == [[], [7, 4, 1], [2]]
    assert most_owned(of(0, 3), rows) == 3
    assert most_owned(of(0, 2), rows) == 2
    assert owned_among(ALONE, rows).tolist() == rows.tolist()
    assert most_owned(ALONE, rows) == 4


def test_what_is_held_is_asked_for_by_the_row_in_the_batch():
    observation = an_observation(8, seed=0)
    part = Part(observation.index(own_rows(of(1, 3), 8)), 3)
    asked = part.index(torch.tensor([7, 1]))
    assert torch.equal(asked.state, observation.state[[7, 1]])


def test_own_rows_stand_at_their_places():
    own = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    there = spread(own, own_rows(of(1, 2), 5), 5)
    assert there.tolist() == [[0, 0], [1, 2], [0, 0], [3, 4], [0, 0]]
    assert spread(own, own_rows(ALONE, 2), 2) is own


def test_one_process_is_asked_nothing():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    ALONE.sum_gradients([parameter])
    assert parameter.grad.tolist() == [1.0, 2.0]
    own = torch.tensor([5.0])
    assert (ALONE.rank, ALONE.size, ALONE.exchange("x")) == (0, 1, ["x"])
    assert ALONE.gather_rows(own, 1) is own


# -- one verdict -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3])
def test_everybody_hears_what_the_work_of_each_returned(size):
    told = in_threads(size, lambda replicas: gathered(replicas, lambda: 10 * replicas.rank))
    assert told == [[10 * rank for rank in range(size)]] * size


@pytest.mark.parametrize("size", [1, 2])
def test_where_all_agree_each_keeps_its_own_result(size):
    # No JSON value: it is not sent.
    results = in_threads(size, lambda replicas: agreed(replicas, lambda: {replicas.rank}))
    assert results == [{rank} for rank in range(size)]


def raised_by_all(size: int, errors: dict[int, Exception]) -> list[NumericsError]:
    """What each of `size` processes raises where some have these errors."""

    def work(replicas: Thread) -> NumericsError:
        def fail() -> None:
            if replicas.rank in errors:
                raise errors[replicas.rank]

        with pytest.raises(NumericsError) as caught:
            agreed(replicas, fail)
        return caught.value

    return in_threads(size, work)


def test_an_error_of_one_process_is_raised_in_all_of_them():
    own = NumericsError("loss is not finite")
    first, second, third = raised_by_all(3, {1: own})
    for error in (first, second, third):
        assert type(error) is NumericsError
        assert str(error) == "learner process 1: loss is not finite"
    # The traceback is where it happened.
    assert second.__cause__ is own
    assert first.__cause__ is None


def test_lies_are_told_together_with_the_largest_gap_of_each_episode():
    errors = raised_by_all(
        3,
        {
            1: ParityError("row 4", gaps={1: 0.5, 3: 0.25}),
            2: ParityError("row 9", gaps={3: 2.0, 1: 0.125, 7: 1.0}),
        },
    )
    for error in errors:
        assert isinstance(error, ParityError)
        assert error.gaps == {1: 0.5, 3: 2.0, 7: 1.0}
        assert str(error).startswith("learner process 1: row 4")


def test_a_fault_of_the_learner_comes_before_a_lie_of_an_actor():
    lie = ParityError("row 4", gaps={1: 0.5})
    errors = raised_by_all(4, {0: lie, 2: NumericsError("NaN"), 3: NumericsError("other")})
    assert [type(error) for error in errors] == [NumericsError] * 4
    assert {str(error) for error in errors} == {"learner process 2: NaN"}


def test_an_error_of_one_process_alone_is_raised_as_it_is():
    lie = ParityError("row 4", gaps={1: 0.5})

    def fail() -> None:
        raise lie

    with pytest.raises(ParityError) as caught:
        agreed(ALONE, fail)
    assert caught.value is lie


# -- whole updates ---------------------------------------------------------------------------------


def share(replicas: Thread, batch: DecisionBatch) -> DecisionBatch:
    """The batch with the own rows' observations, as it arrives."""
    rows = own_rows(replicas, len(batch))
    sides = {side: getattr(batch, side).index(rows) for side in ("observation", "next_observation")}
    return unpacked(packed(replace(batch, **sides)))


@pytest.mark.parametrize(
    ("name", "size", "updates"),
    [
        ("small minibatches, flow-noise", 2, 1),
        ("critic epochs", 3, 1),
        ("reference", 2, 1),
        ("open ends", 3, 1),
        ("early stop", 2, 1),
        ("demonstrations", 2, 1),
        ("recorded anchor", 2, 2),
    ],
)
def test_an_update_that_is_shared_is_the_update_of_one(name, size, updates):
    case = replace(CASES[name], updates=updates)
    # Built one after the other: what seeds the global generator is no business of two threads.
    algorithms = [an_algorithm_of(case) for _ in range(size)]

    def work(replicas: Thread) -> Found:
        algorithm = algorithms[replicas.rank]
        algorithm.replicas = replicas
        return run_case(case, algorithm, lambda batch: share(replicas, batch))

    first, *others = in_threads(size, work)
    alone = an_algorithm_of(case)
    rows, tensors = run_case(case, alone, lambda batch: batch)
    # Each batch of demonstrations is read by one of the processes.
    read = [rows for algorithm in algorithms for rows in algorithm.demonstrations.asked]
    assert sorted(read) == sorted(alone.demonstrations.asked)
    for row, expected in zip(first[0], rows, strict=True):
        # A mean over micro-batches, which are other rows here.
        del row["update/noise_std_mean"]
        wanted = {n: v for n, v in expected.items() if n != "update/noise_std_mean"}
        assert row == pytest.approx(wanted, rel=METRIC, abs=METRIC)
    for n, tensor in tensors.items():
        bound = GRADIENT if n.startswith("gradient/") else WEIGHT
        torch.testing.assert_close(first[1][n], tensor, rtol=0.0, atol=bound, msg=n)
        # Among themselves to the bit, or they would drift apart.
        assert all(torch.equal(found[n], first[1][n]) for _, found in others), n
    assert first[1].keys() == tensors.keys()


def test_a_lie_is_found_by_its_owner_and_told_by_all():
    algorithms = [an_algorithm_of(CASES["flow-sde"]) for _ in range(2)]
    batch = a_batch(algorithms[0])
    lie = batch.fields["pirl_logprob"].clone()
    # Row 4 is of episode 1.
    lie[4] += 1.0
    batch = replace(batch, fields={**batch.fields, "pirl_logprob": lie})

    def work(replicas: Thread) -> ParityError:
        algorithms[replicas.rank].replicas = replicas
        with pytest.raises(ParityError) as caught:
            algorithms[replicas.rank].update(iter([share(replicas, batch)]))
        return caught.value

    for error in in_threads(2, work):
        assert set(error.gaps) == {1}
        assert "learner process 0: " in str(error)
