"""What is saved comes back to the bit, in LeRobot's layout, and a run goes on from it."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_builders import TOKEN, Run, a_run, a_state, load, save, train
from lerobot.common.train_utils import load_training_state
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy

from pirl.checkpoint import COMPONENTS, SavedCheckpoint, resolve_checkpoint, state_digests
from pirl.checkpoint import digests as digests_module
from pirl.checkpoint.layout import REQUIRED_PARTS, RUN_STATE
from pirl.checkpoint.state import RunState
from pirl.config.identity import canonical_json, config_hash
from pirl.errors import CheckpointError


@pytest.fixture(scope="module")
def trained() -> Run:
    """A run after two updates; not altered by tests."""
    run = a_run()
    for step in (1, 2):
        train(run, step)
    return run


@pytest.fixture
def run(trained: Run) -> Run:
    """The same to do anything with."""
    return copy.deepcopy(trained)


@pytest.fixture(scope="module")
def saved(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> SavedCheckpoint:
    """Its checkpoint, to be read only."""
    return save(trained, tmp_path_factory.mktemp("run"), 2)


def digests(run: Run, state: RunState) -> dict[str, str]:
    return state_digests(run.policy, run.algorithm, state)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("torch_cuda_rng_state", False), ("torch_mps_rng_state", False), ("torch_rng_state", True)],
)
def test_generators_of_an_accelerator_are_not_compared(trained, monkeypatch, name, counts):
    state, read = a_state(2), digests_module.read_rng
    before = digests(trained, state)["rng"]
    monkeypatch.setattr(
        digests_module,
        "read_rng",
        lambda generators: {**read(generators), name: torch.zeros(3, dtype=torch.uint8)},
    )
    assert (digests(trained, state)["rng"] != before) is counts


def draws() -> list[float]:
    """The next number of each global generator, pending normal deviates included."""
    return [
        random.gauss(0, 1),
        random.random(),
        float(np.random.normal()),
        float(np.random.random()),
        float(torch.rand(())),
    ]


@pytest.mark.parametrize("variant", ["flow-sde", "flow-noise"])
def test_two_updates_then_save_and_load_then_two_updates_equal_four(
    tmp_path: Path, variant: str
) -> None:
    straight = a_run(variant)
    for step in (1, 2):
        train(straight, step)
    saved = save(straight, tmp_path, 2)
    for step in (3, 4):
        train(straight, step)

    resumed = a_run(variant, seed=99)
    state = load(resumed, saved.path)
    assert digests(resumed, state) == saved.digests
    for step in (3, 4):
        train(resumed, step)
    after, expected = digests(resumed, a_state(4)), digests(straight, a_state(4))
    assert {n: after[n] for n in COMPONENTS if n != "rng"} == {
        n: expected[n] for n in COMPONENTS if n != "rng"
    }
    assert after != saved.digests


def test_the_recorded_hash_is_the_configs_own(saved: SavedCheckpoint, trained: Run) -> None:
    run = trained
    record = json.loads((saved.path / RUN_STATE).read_text())
    assert record["identity"]["config_hash"] == config_hash(run.cfg)
    assert json.dumps(record["config"], sort_keys=True, separators=(",", ":")) == canonical_json(
        run.cfg
    )


def test_the_run_state_comes_back(saved: SavedCheckpoint, run: Run) -> None:
    state = load(run, saved.path)
    expected = a_state(2)
    assert state.counters == expected.counters
    assert state.env_cursor == expected.env_cursor
    assert (state.run_id, state.step, state.policy_version) == ("run-1", 2, 2)
    assert state.config_path == expected.config_path
    assert torch.equal(state.generators["demo"], expected.generators["demo"])


def test_global_random_state_goes_on_with_the_same_numbers(tmp_path: Path, run: Run) -> None:
    # An odd number of normal draws leaves one pending in Python's and in NumPy's generator.
    random.gauss(0, 1)
    np.random.normal()
    saved = save(run, tmp_path, 2)
    expected = draws()
    draws()
    load(run, saved.path)
    assert draws() == expected


def test_parameters_keep_their_identity_so_that_the_optimiser_still_owns_them(
    saved: SavedCheckpoint, run: Run
) -> None:
    before = [id(p) for p in run.policy.trained_parameters().values()]
    load(run, saved.path)
    assert [id(p) for p in run.policy.trained_parameters().values()] == before
    groups = run.algorithm.get_optimizers()["pi_rl"].param_groups
    assert set(before) <= {id(p) for group in groups for p in group["params"]}


def test_the_folder_has_lerobots_layout_and_no_secret(saved: SavedCheckpoint, run: Run) -> None:
    step_dir = saved.path
    run_dir = step_dir.parent.parent
    assert step_dir == run_dir / "checkpoints" / "000002"
    assert [part for part in REQUIRED_PARTS if not (step_dir / part).is_file()] == []
    assert (run_dir / "checkpoints" / "last").readlink() == Path("000002")
    assert sorted(p.name for p in (run_dir / "checkpoints").iterdir()) == ["000002", "last"]
    for path in step_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert TOKEN.encode() not in content, path
            assert str(run_dir).encode() not in content, path
    assert run.cfg.runtime.token == TOKEN


def test_stock_lerobot_acts_the_same_with_the_saved_policy(
    saved: SavedCheckpoint, run: Run
) -> None:
    step_dir = saved.path
    stock = XVLAPolicy.from_pretrained(step_dir / "pretrained_model", strict=True)
    rng = torch.Generator().manual_seed(0)
    batch = {
        "observation.images.image": torch.rand(2, 3, 64, 64, generator=rng),
        "observation.state": torch.rand(2, 4, generator=rng),
        "observation.language.tokens": torch.randint(4, 100, (2, 8), generator=rng),
    }
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = run.policy.module.predict_action_chunk(dict(batch))
        torch.manual_seed(5)
        actual = stock.predict_action_chunk(dict(batch))
    assert torch.equal(actual, expected)
    names = json.loads((step_dir / "pretrained_model" / "config.json").read_text())
    assert (names["num_denoising_steps"], names["n_action_steps"]) == (2, 4)


def test_stock_lerobot_reads_the_training_state(tmp_path: Path, run: Run) -> None:
    saved = save(run, tmp_path, 2)
    expected = float(torch.rand(()))
    other = copy.deepcopy(run)
    other.algorithm.make_optimizers_and_scheduler()
    step, _, _ = load_training_state(saved.path, dict(other.algorithm.get_optimizers()), None)
    assert step == 2
    assert float(torch.rand(())) == expected
    assert digests(other, a_state(2))["optimizer"] == saved.digests["optimizer"]


def test_each_digest_moves_with_its_own_part_only(run: Run) -> None:
    """Otherwise a difference would be reported against the wrong part, or not at all."""
    algorithm, policy = run.algorithm, run.policy
    adam = algorithm.get_optimizers()["pi_rl"]
    trained = next(iter(policy.trained_parameters().values()))
    frozen = next(iter(policy.frozen_parameters().values()))
    moment = next(iter(adam.state.values()))["exp_avg"]

    def bump(tensor: torch.Tensor) -> None:
        with torch.no_grad():
            tensor.view(-1)[0] = torch.nextafter(tensor.view(-1)[0], torch.tensor(9.0))

    changes = [
        (lambda: bump(trained), {"policy", "trained"}),
        (lambda: bump(frozen), {"policy", "frozen"}),
        (lambda: bump(algorithm.critic.last.bias), {"critic"}),
        (lambda: bump(next(iter(algorithm.noise_head.parameters()))), {"noise_head"}),
        (lambda: bump(moment), {"optimizer"}),
        (lambda: adam.param_groups[0].update(lr=1e-9), {"optimizer"}),
        (lambda: setattr(algorithm._schedule, "scale", 0.5), {"scheduler"}),
        (lambda: setattr(algorithm, "_updates", 77), {"scheduler"}),
        (lambda: algorithm._buffer._parts.popleft(), {"scheduler"}),
        (lambda: torch.rand(()), {"rng"}),
        (lambda: np.random.normal(), {"rng"}),
        (lambda: random.gauss(0, 1), {"rng"}),
    ]
    before = digests(run, a_state(2))
    for change, expected in changes:
        change()
        after = digests(run, a_state(2))
        assert {name for name in COMPONENTS if before[name] != after[name]} == expected
        before = after
    assert {n for n in COMPONENTS if before[n] != digests(run, a_state(3))[n]} == {
        "rng",
        "counters",
    }


def test_saving_the_same_step_again_keeps_what_is_there(tmp_path: Path, run: Run) -> None:
    first = save(run, tmp_path, 2)
    stamps = {p: p.stat().st_mtime_ns for p in first.path.rglob("*")}
    (tmp_path / "checkpoints" / "last").unlink()
    again = save(run, tmp_path, 2)
    assert again.kept
    assert not first.kept
    assert {p: p.stat().st_mtime_ns for p in first.path.rglob("*")} == stamps
    assert resolve_checkpoint(tmp_path) == first.path
    assert (tmp_path / "checkpoints" / "last").readlink() == Path("000002")


def test_saving_another_state_under_the_same_step_is_refused_and_named(
    tmp_path: Path, run: Run
) -> None:
    first = save(run, tmp_path, 2)
    with torch.no_grad():
        run.algorithm.critic.last.bias.add_(1.0)
    with pytest.raises(CheckpointError, match="never overwritten") as caught:
        save(run, tmp_path, 2)
    assert [part.split(":")[0] for part in caught.value.parts] == ["critic"]
    assert load(run, first.path).step == 2


def test_saving_over_a_damaged_or_incomplete_step_is_refused(tmp_path: Path, run: Run) -> None:
    step_dir = save(run, tmp_path, 2).path
    shutil.rmtree(step_dir / "algorithm")
    with pytest.raises(CheckpointError) as caught:
        save(run, tmp_path, 2)
    assert "algorithm/config.json: missing" in caught.value.parts
    (step_dir / "manifest.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        save(run, tmp_path, 2)
    assert caught.value.parts == ("manifest.json: missing",)


def test_a_wider_folder_name_does_not_hide_an_existing_step(tmp_path: Path, run: Run) -> None:
    step_dir = save(run, tmp_path, 2).path
    renamed = step_dir.rename(step_dir.with_name("0000002"))
    assert save(run, tmp_path, 2).path == renamed


def test_a_real_folder_called_last_is_refused_before_anything_is_written(
    tmp_path: Path, run: Run
) -> None:
    (tmp_path / "checkpoints" / "last").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="not a link"):
        save(run, tmp_path, 2)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["last"]


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": {1}}, {"x": torch.zeros(1)}])
def test_a_state_that_no_file_can_carry_is_refused_at_once(bad: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="counters cannot be stored"):
        RunState(run_id="r", step=1, policy_version=1, config_path="c", counters=bad)
