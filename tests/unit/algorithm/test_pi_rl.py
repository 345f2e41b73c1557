"""The LeRobot interface: resume, weights, eval mode, frozen parameters; toys and a tiny X-VLA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lerobot.optim.optimizers import load_optimizer_state, save_optimizer_state
from lerobot.rl.algorithms.configs import RLAlgorithmConfig, TrainingStats
from lerobot.rl.algorithms.factory import make_algorithm_config
from safetensors.torch import load_file, save_file
from toys import Episode, Shown, ToyPolicy, a_batch, a_recipe, an_algorithm

from pirl.algorithm.pi_rl import PiRLAlgorithm, PiRLAlgorithmConfig, metric_row
from pirl.config.recipe import PiRLConfig
from pirl.errors import CheckpointError, ContractError, MismatchError, NumericsError
from pirl.journal.metrics import METRICS
from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.tiny import tiny_xvla_config
from pirl.records import DecisionBatch, Observation

VARIANTS = ("flow-sde", "flow-noise")


def a_policy(seed: int = 0, dropout: float = 0.0) -> ToyPolicy:
    return ToyPolicy(
        chunk_size=3,
        executed_steps=2,
        dims=3,
        denoising_steps=4,
        hidden=16,
        dropout=dropout,
        seed=seed,
        dtype=torch.float64,
    )


def stateful(variant: str) -> PiRLConfig:
    """A recipe in which everything that can carry state does."""
    return a_recipe(
        variant,
        lr_schedule="kl_adaptive",
        target_kl=1e-3,
        actor_lr_max=5e-3,
        value_epochs=2,
        value_buffer_updates=2,
        kl_beta=0.1,
        critic_warmup_steps=1,
    )


def state(algorithm: PiRLAlgorithm) -> dict[str, torch.Tensor]:
    optimizer = algorithm.get_optimizers()["pi_rl"].state_dict()["state"]
    moments = {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in optimizer.items()
        for name, value in entry.items()
    }
    return {
        **algorithm.get_weights(),
        **algorithm.state_dict(),
        **algorithm.training_state(),
        **moments,
    }


def assert_identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def run(algorithm: PiRLAlgorithm, versions: range) -> list[dict[str, float]]:
    return [metric_row(algorithm.update(iter([a_batch(algorithm, version=v)]))) for v in versions]


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_updates_saved_and_two_more_equal_four(variant, tmp_path: Path):
    straight = an_algorithm(a_policy(), stateful(variant))
    rows = run(straight, range(4))

    first = an_algorithm(a_policy(), stateful(variant))
    run(first, range(2))
    save_optimizer_state(first.get_optimizers(), tmp_path)
    save_file(first.get_weights(), tmp_path / "weights.safetensors")
    save_file(first.state_dict(), tmp_path / "algorithm.safetensors")
    save_file(first.training_state(), tmp_path / "training.safetensors")

    second = an_algorithm(a_policy(seed=1), stateful(variant))
    second.policy.module.vlm.load_state_dict(first.policy.module.vlm.state_dict())
    second.load_weights(load_file(tmp_path / "weights.safetensors"))
    second.load_state_dict(load_file(tmp_path / "algorithm.safetensors"))
    second.load_training_state(load_file(tmp_path / "training.safetensors"))
    load_optimizer_state(second.get_optimizers(), tmp_path)
    assert_identical(state(second), state(first))

    assert run(second, range(2, 4)) == rows[2:]
    assert_identical(state(second), state(straight))


@pytest.mark.parametrize("missing", ["algorithm", "training", "optimizer"])
def test_each_part_of_the_state_matters_to_the_next_weights(missing, tmp_path: Path):
    straight = an_algorithm(a_policy(), stateful("flow-sde"))
    run(straight, range(2))
    second = an_algorithm(a_policy(), stateful("flow-sde"))
    second.load_weights(straight.get_weights())
    if missing != "algorithm":
        second.load_state_dict(straight.state_dict())
    if missing != "training":
        second.load_training_state(straight.training_state())
    if missing != "optimizer":
        save_optimizer_state(straight.get_optimizers(), tmp_path)
        load_optimizer_state(second.get_optimizers(), tmp_path)
    batch = a_batch(straight, version=2)
    for algorithm in (straight, second):
        algorithm.update(iter([batch]))
    with pytest.raises(AssertionError):
        assert_identical(second.get_weights(), straight.get_weights())


def test_acting_weights_that_were_not_restored_stop_the_next_update():
    straight = an_algorithm(a_policy(), stateful("flow-sde"))
    run(straight, range(2))
    with pytest.raises(NumericsError, match="context or weights"):
        an_algorithm(a_policy(), stateful("flow-sde")).update(iter([a_batch(straight, version=2)]))


def test_the_same_seed_gives_the_same_update_and_another_seed_does_not():
    def first_weights(seed: int) -> dict[str, torch.Tensor]:
        config = PiRLAlgorithmConfig(pirl=a_recipe(global_batch=4), seed=seed)
        algorithm = PiRLAlgorithm(a_policy(), config)
        algorithm.update(iter([a_batch(algorithm)]))
        return algorithm.get_weights()

    assert_identical(first_weights(0), first_weights(0))
    with pytest.raises(AssertionError):
        assert_identical(first_weights(0), first_weights(1))


def test_an_update_leaves_torchs_global_stream_alone():
    algorithm = an_algorithm(a_policy(), a_recipe())
    batch = a_batch(algorithm)
    before = torch.get_rng_state()
    algorithm.update(iter([batch]))
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_state_keeps_the_parameters_the_optimiser_holds():
    algorithm = an_algorithm(a_policy(), a_recipe("flow-noise"))
    held = [id(p) for g in algorithm.get_optimizers()["pi_rl"].param_groups for p in g["params"]]
    algorithm.load_state_dict(
        {name: torch.ones_like(v) for name, v in algorithm.state_dict().items()}
    )
    algorithm.load_weights({n: torch.ones_like(v) for n, v in algorithm.get_weights().items()})
    parameters = algorithm._nets.parameters().values()
    assert sorted(held) == sorted(id(p) for p in parameters)
    assert all(bool((p == 1).all()) for p in parameters)


def test_published_weights_are_the_trained_tensors_and_the_noise_head_only():
    algorithm = an_algorithm(a_policy(), a_recipe("flow-noise"))
    names = set(algorithm.get_weights())
    assert {n for n in names if not n.startswith("noise_head.")} == set(
        algorithm.policy.trained_parameters()
    )
    assert any(n.startswith("noise_head.") for n in names)
    assert not any(n.startswith("critic.") for n in names)
    assert all(n.startswith(("critic.", "noise_head.")) for n in algorithm.state_dict())


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_and_state_are_copies_without_a_graph(variant):
    algorithm = an_algorithm(a_policy(), stateful(variant))
    run(algorithm, range(2))
    given = {**algorithm.get_weights(), **algorithm.state_dict()}
    assert not any(value.requires_grad for value in given.values())
    before = {name: value.clone() for name, value in given.items()}
    with torch.no_grad():
        for parameter in algorithm._nets.parameters().values():
            parameter += 1.0
        for value in (algorithm._reference or {}).values():
            value += 1.0
    assert_identical(given, before)


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape", "dtype"])
def test_weights_that_do_not_fit_are_refused_by_name_and_nothing_is_loaded(damage):
    algorithm = an_algorithm(a_policy(), a_recipe())
    before = algorithm.get_weights()
    wrong = {name: value + 1.0 for name, value in before.items()}
    name = sorted(wrong)[0]
    if damage == "missing":
        del wrong[name]
    elif damage == "unknown":
        name = "transformer.extra"
        wrong[name] = torch.zeros(1)
    elif damage == "shape":
        wrong[name] = wrong[name][..., :-1]
    else:
        wrong[name] = wrong[name].half()
    with pytest.raises(MismatchError) as caught:
        algorithm.load_weights(wrong)
    assert [f.field for f in caught.value.fields] == [name]
    assert_identical(algorithm.get_weights(), before)


def test_training_state_with_a_missing_entry_is_refused():
    algorithm = an_algorithm(a_policy(), a_recipe())
    damaged = algorithm.training_state()
    del damaged["lr_scale"]
    with pytest.raises(CheckpointError, match="lr_scale"):
        algorithm.load_training_state(damaged)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_metric_of_an_update_is_declared_and_finite(variant):
    algorithm = an_algorithm(a_policy(), stateful(variant))
    rows = run(algorithm, range(2))
    grpo = an_algorithm(a_policy(), a_recipe(variant, adv_type="grpo", group_size=2))
    episodes = [Episode(rewards=(0.0, 1.0), group=0), Episode(rewards=(0.0, 0.0), group=0)]
    rows.append(metric_row(grpo.update(iter([a_batch(grpo, episodes=episodes)]))))
    names = {name for row in rows for name in row}
    assert not sorted(names - set(METRICS))
    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_batch_names_its_losses_and_is_the_gradient_of_the_first_step(variant):
    algorithm = an_algorithm(a_policy(), a_recipe(variant))
    batch = a_batch(algorithm)
    before = state(algorithm)
    result = algorithm.forward_batch(batch)
    assert set(result.losses) == {
        "policy_loss",
        "value_loss",
        "entropy",
        "kl_reference",
        "total_loss",
    }
    assert result.metrics["update/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    result.total.backward()
    assert all(p.grad is not None for p in algorithm.policy.trained_parameters().values())
    assert_identical(state(algorithm), before)


def test_lerobot_knows_the_config_by_name_and_reads_it_back(tmp_path: Path):
    config = make_algorithm_config("pi_rl", pirl=a_recipe("flow-noise"), total_updates=7, seed=3)
    assert isinstance(config, PiRLAlgorithmConfig)
    config.save_pretrained(tmp_path)
    assert RLAlgorithmConfig.from_pretrained(tmp_path) == config


def test_update_counts_itself_and_its_optimiser_steps():
    algorithm = an_algorithm(a_policy(), a_recipe(global_batch=6, update_epochs=3))
    stats = algorithm.update(iter([a_batch(algorithm)]))
    assert isinstance(stats, TrainingStats)
    assert algorithm.updates == 1
    assert algorithm.optimization_step == 6


def test_an_update_works_in_eval_mode_and_leaves_it_whatever_came_before_or_between():
    policy = a_policy(dropout=0.5)

    class Disturbing(Shown):
        def batch(self, rows):
            found = super().batch(rows)
            if len(self.asked) > 1:
                policy.module.train()
            return found

    shown = Disturbing(table={"action": torch.zeros(2, 3, 3)})
    pirl = a_recipe(bc_weight=0.1, micro_batch=6)
    algorithm = an_algorithm(policy, pirl, demonstrations=shown)
    batch = a_batch(algorithm)
    policy.module.train()
    with pytest.raises(NumericsError, match=r"dropout|ratio"):
        algorithm.update(iter([batch]))
    assert not any(m.training for m in policy.module.modules())
    plain = an_algorithm(policy, a_recipe())
    batch = a_batch(plain)
    policy.module.train()
    row = metric_row(plain.update(iter([batch])))
    assert row["update/parity_max_abs"] < 1e-5
    assert not any(m.training for m in policy.module.modules())


# The real policy, in miniature.


def tiny_algorithm(variant: str, **knobs: object) -> PiRLAlgorithm:
    config = tiny_xvla_config(
        chunk_size=4, n_action_steps=3, num_denoising_steps=3, image_size=32, views=2
    )
    policy = build_policy(config, executed_dims=tuple(range(10)), device="cpu", seed=0)
    pirl = a_recipe(variant, **{"actor_lr": 1e-5, **knobs})
    return an_algorithm(policy, pirl)  # type: ignore[arg-type]


def tiny_batch(algorithm: PiRLAlgorithm, *, version: int = 0) -> DecisionBatch:
    """Decisions on random images."""
    batch = a_batch(algorithm, version=version, observation=tiny_observation(11, seed=version))
    return replace(batch, next_observation=tiny_observation(11, seed=100 + version))


def tiny_observation(rows: int, *, seed: int) -> Observation:
    rng = torch.Generator().manual_seed(seed)
    images = {
        name: torch.randint(0, 256, (rows, 3, 32, 32), generator=rng, dtype=torch.uint8)
        for name in ("observation.images.image", "observation.images.image2")
    }
    return Observation(
        images=images,
        state=torch.randn(rows, 20, generator=rng),
        inputs={
            "input_ids": torch.randint(4, 20, (rows, 6), generator=rng),
            "domain_id": torch.zeros(rows, dtype=torch.int64),
        },
    )


ROUNDING = 3 * (1 / 0.005) * torch.finfo(torch.float32).eps * (3 * 10) ** 0.5
"""What fp32 may move a chunk's log-prob by: 3 SNR e sqrt(dims), at 5 mm and 30 dims.

An X-VLA's products round differently in passes of different sizes, more or less so by CPU.
"""


@pytest.mark.parametrize("variant", VARIANTS)
def test_tiny_xvla_ratio_is_one_for_every_decision_in_passes_of_one_size(variant):
    """One decision per pass: nothing but the live network and its anchor could differ."""
    algorithm = tiny_algorithm(variant, micro_batch=1, global_batch=16)
    row = metric_row(algorithm.update(iter([tiny_batch(algorithm)])))
    assert row["update/ratio_first_max_abs"] < 1e-6
    assert row["update/approx_kl"] > 0.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_tiny_xvla_ratio_is_one_frozen_parameters_stay_and_eval_mode_is_restored(variant):
    algorithm = tiny_algorithm(variant)
    frozen = {n: p.detach().clone() for n, p in algorithm.policy.frozen_parameters().items()}
    before = algorithm.get_weights()
    rows = [
        metric_row(algorithm.update(iter([tiny_batch(algorithm, version=v)]))) for v in range(2)
    ]
    for row in rows:
        assert row["update/ratio_first_max_abs"] < ROUNDING
        assert row["update/parity_max_abs"] < ROUNDING
        assert row["update/grad_norm_actor"] > 0.0
    assert not any(m.training for m in algorithm.policy.module.modules())
    now = {n: p.detach() for n, p in algorithm.policy.frozen_parameters().items()}
    assert_identical(now, frozen)
    moved = [n for n, value in algorithm.get_weights().items() if not torch.equal(value, before[n])]
    assert len(moved) == len(before)


def test_tiny_xvla_in_train_mode_is_refused_at_the_door(monkeypatch):
    algorithm = tiny_algorithm("flow-sde")
    batch = tiny_batch(algorithm)
    monkeypatch.setattr(algorithm.policy.module, "eval", lambda: None)
    algorithm.policy.module.train()
    with pytest.raises(ContractError):
        algorithm.update(iter([batch]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_tiny_xvla_with_live_dropout_breaks_parity_by_more_than_a_tenth(variant, monkeypatch):
    algorithm = tiny_algorithm(variant)
    batch = tiny_batch(algorithm)
    monkeypatch.setattr(algorithm.policy.module, "eval", lambda: None)
    monkeypatch.setattr(type(algorithm.policy), "_guard", lambda self: None)
    algorithm.policy.module.train()
    with pytest.raises(NumericsError, match="dropout") as caught:
        algorithm.update(iter([batch]))
    off = float(str(caught.value).split("recorded one by ")[1].split(" ")[0])
    assert off > 0.1


def test_batches_are_never_prefetched_whatever_lerobot_asks_for():
    asked = []

    class Mixer:
        def get_iterator(self, **options):
            asked.append(options)
            return iter(())

    algorithm = an_algorithm(ToyPolicy(), a_recipe())
    algorithm.configure_data_iterator(Mixer(), 7, async_prefetch=True, queue_size=3)
    algorithm.configure_data_iterator(Mixer(), 7)
    assert asked == [
        {"batch_size": 7, "async_prefetch": False, "queue_size": size} for size in (3, 1)
    ]


@pytest.mark.parametrize("variant", ["flow-sde", "flow-noise"])
def test_what_is_published_can_be_compared_without_its_memory(variant):
    algorithm = an_algorithm(ToyPolicy(), a_recipe(variant))
    like, weights = algorithm.published_like(), algorithm.get_weights()
    assert {n: (t.shape, t.dtype) for n, t in like.items()} == {
        n: (t.shape, t.dtype) for n, t in weights.items()
    }
    assert {t.device.type for t in like.values()} == {"meta"}


def test_what_is_handed_out_is_a_copy():
    algorithm = an_algorithm(ToyPolicy(), a_recipe())
    live, copies = algorithm.live_tensors(), algorithm.get_weights() | algorithm.state_dict()
    assert live.keys() == copies.keys()
    assert not {t.data_ptr() for t in live.values()} & {t.data_ptr() for t in copies.values()}
