"""One update: gradients, live checks, stale data, and what may stop it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from toys import EPISODES, Episode, ToyPolicy, a_batch, a_recipe, an_algorithm, shown_actions

from pirl.algorithm.demonstrations import bc_weight, demo_rows
from pirl.algorithm.networks import micro_batches
from pirl.algorithm.objective import Counts, Losses, minibatch_losses
from pirl.algorithm.pi_rl import PiRLAlgorithm, metric_row
from pirl.algorithm.prepare import Prepared
from pirl.algorithm.replicas import ALONE
from pirl.algorithm.update import Iteration, minibatches
from pirl.errors import ConfigError, NumericsError, ParityError
from pirl.records import DecisionBatch

VARIANTS = ("flow-sde", "flow-noise")


def a_policy(**options: object) -> ToyPolicy:
    shape = dict(chunk_size=3, executed_steps=2, dims=3, denoising_steps=4, hidden=16)
    return ToyPolicy(**{**shape, "dtype": torch.float64, **options})  # type: ignore[arg-type]


def an_update(variant: str = "flow-sde", **knobs: object) -> PiRLAlgorithm:
    return an_algorithm(a_policy(), a_recipe(variant, **knobs))


def with_field(batch: DecisionBatch, name: str, value: torch.Tensor) -> DecisionBatch:
    return replace(batch, fields={**batch.fields, name: value})


def losses_of(algorithm: PiRLAlgorithm, batch: DecisionBatch) -> tuple[Prepared, Losses]:
    prepared = algorithm._prepare(batch)
    rows = torch.arange(len(prepared))
    losses = minibatch_losses(
        algorithm._nets,
        prepared,
        rows,
        live=torch.ones_like(rows, dtype=torch.bool),
        counts=Counts.of(prepared, rows),
    )
    return prepared, losses


def gradient(algorithm: PiRLAlgorithm) -> dict[str, torch.Tensor]:
    return {name: g.clone() for name, g in algorithm._nets.gradients().items()}


def weights(algorithm: PiRLAlgorithm) -> dict[str, torch.Tensor]:
    return {**algorithm.get_weights(), **algorithm.state_dict()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("variant", VARIANTS)
def test_critic_loss_gives_no_gradient_to_the_actor_and_the_actor_loss_none_to_the_critic(variant):
    algorithm = an_update(variant)
    # A critic that is not at its zero start, so that its gradient is not zero by accident.
    algorithm.critic.last.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    _, losses = losses_of(algorithm, a_batch(algorithm))
    losses.value.backward()
    assert gradient(algorithm)
    assert all(name.startswith("critic.") for name in gradient(algorithm))
    algorithm._optimizer.zero_grad(set_to_none=True)
    losses.actor.policy.backward()
    assert gradient(algorithm)
    assert not any(name.startswith("critic.") for name in gradient(algorithm))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_trained_tensor_gets_a_gradient_and_no_frozen_one_does(variant):
    algorithm = an_update(variant)
    algorithm.critic.last.weight.data.fill_(0.1)
    _, losses = losses_of(algorithm, a_batch(algorithm))
    losses.total.backward()
    assert gradient(algorithm).keys() == algorithm._nets.parameters().keys()
    assert all(p.grad is None for p in algorithm.policy.frozen_parameters().values())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("micro", [1, 3, 4, 11])
def test_micro_batches_accumulate_the_exact_minibatch_gradient(variant, micro):
    whole, parts = an_update(variant), an_update(variant)
    for algorithm in (whole, parts):
        algorithm.critic.last.weight.data.fill_(0.1)
    batch = a_batch(whole)
    _, losses = losses_of(whole, batch)
    losses.total.backward()

    iteration = Iteration(
        nets=parts._nets,
        prepared=replace(parts._prepare(batch), micro_size=micro),
        optimizer=parts._optimizer,
        buffer=parts._buffer,
        seed=0,
        limits=parts.limits,
        train_actor=True,
        imitation=None,
        replicas=ALONE,
    )
    iteration._backward(torch.randperm(11, generator=torch.Generator().manual_seed(3)), check=False)
    for name, expected in gradient(whole).items():
        torch.testing.assert_close(gradient(parts)[name], expected, atol=1e-6, rtol=1e-5)


def test_micro_batches_have_one_size_and_the_padding_does_not_count():
    parts = list(micro_batches(torch.arange(10, 17), size=3))
    assert [len(p.rows) for p in parts] == [3, 3, 3]
    assert torch.cat([p.rows[p.live] for p in parts]).tolist() == list(range(10, 17))


def test_minibatches_cover_all_rows_once_in_equal_parts_within_the_bound():
    parts = minibatches(25, size=8, generator=torch.Generator().manual_seed(0))
    assert sorted(torch.cat(parts).tolist()) == list(range(25))
    assert [len(p) for p in parts] == [7, 6, 6, 6]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("level", ["chunk", "action", "token"])
def test_ratio_is_one_and_parity_holds_before_the_first_step(variant, level):
    algorithm = an_update(variant, logprob_level=level)
    row = metric_row(algorithm.update(iter([a_batch(algorithm)])))
    assert row["update/ratio_first_max_abs"] < 1e-6
    assert row["update/parity_max_abs"] < 1e-5
    assert row["update/kl_first"] < 1e-9
    assert row["update/clip_first_fraction"] == 0.0
    # The update did move: the checks above are not satisfied by a policy that never changes.
    assert row["update/approx_kl"] > 0.0


@pytest.mark.parametrize("recompute", [True, False], ids=["recomputed", "recorded anchor"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_tampered_log_prob_stops_the_update_before_any_weight_changes(variant, recompute):
    algorithm = an_update(variant, recompute_proximal=recompute)
    batch = a_batch(algorithm)
    tampered = batch.fields["pirl_logprob"].clone()
    position = tuple(batch.fields["pirl_logprob_mask"].nonzero()[30].tolist())
    tampered[position] += 0.5
    before = weights(algorithm)
    with pytest.raises(ParityError) as caught:
        algorithm.update(iter([with_field(batch, "pirl_logprob", tampered)]))
    episode = int(batch.fields["pirl_episode_id"][position[0]])
    assert caught.value.gaps == pytest.approx({episode: 0.5}, abs=1e-3)
    message = str(caught.value)
    row = position[0]
    assert "0.5 nats" in message
    assert re.search(rf"row {row}, episode \d+, chunk \d+", message)
    assert "chain fields: 1 of" in message
    assert equal(weights(algorithm), before)
    # The learner goes on with true ones as if nothing had happened.
    unharmed = an_update(variant, recompute_proximal=recompute)
    rows = [metric_row(a.update(iter([batch]))) for a in (algorithm, unharmed)]
    assert rows[0] == rows[1]
    assert equal(weights(algorithm), weights(unharmed))


def test_another_observation_than_the_actor_saw_is_called_a_context_difference():
    algorithm = an_update()
    batch = a_batch(algorithm)
    moved = replace(batch.observation, state=batch.observation.state + 1.0)
    with pytest.raises(NumericsError, match="context or weights"):
        algorithm.update(iter([replace(batch, observation=moved)]))


def test_other_weights_than_the_actor_had_stop_the_update():
    algorithm = an_update()
    batch = a_batch(algorithm)
    for parameter in algorithm.policy.trained_parameters().values():
        parameter.data.add_(0.05)
    with pytest.raises(NumericsError, match="context or weights"):
        algorithm.update(iter([batch]))


def test_a_policy_left_in_train_mode_stops_the_update_and_dropout_is_named(monkeypatch):
    algorithm = an_algorithm(a_policy(dropout=0.5), a_recipe())
    batch = a_batch(algorithm)
    monkeypatch.setattr(algorithm.policy.module, "eval", lambda: None)
    algorithm.policy.module.train()
    with pytest.raises(NumericsError, match=r"dropout: .* modules are in train mode") as caught:
        algorithm.update(iter([batch]))
    # No actor can be blamed for it.
    assert not isinstance(caught.value, ParityError)


def test_noise_in_the_gradient_pass_alone_breaks_the_first_ratio(monkeypatch):
    algorithm = an_update()
    batch = a_batch(algorithm)
    plain = algorithm.policy.predict

    def noisy(context, x, t):
        prediction = plain(context, x, t)
        if not torch.is_grad_enabled():
            return prediction
        return replace(prediction, clean=prediction.clean + 0.01)

    monkeypatch.setattr(algorithm.policy, "predict", noisy)
    before = weights(algorithm)
    with pytest.raises(NumericsError, match="ratio is off by"):
        algorithm.update(iter([batch]))
    assert equal(weights(algorithm), before)


def test_the_parity_hook_turns_the_check_off_loudly(monkeypatch, caplog):
    monkeypatch.setenv("PIRL_TEST_DISABLE", "parity")
    algorithm = an_update()
    batch = a_batch(algorithm)
    tampered = with_field(batch, "pirl_logprob", batch.fields["pirl_logprob"] + 0.01)
    row = metric_row(algorithm.update(iter([tampered])))
    assert row["update/parity_max_abs"] > 1e-2
    assert "DISABLED" in caplog.text


def test_stale_decisions_are_not_held_to_parity_but_weighted_and_cut_off():
    algorithm = an_update(behave_weight_threshold=1.2)
    batch = a_batch(algorithm, version=3, acted=2)
    for parameter in algorithm.policy.trained_parameters().values():
        parameter.data.add_(0.02)
    row = metric_row(algorithm.update(iter([batch])))
    assert "update/parity_max_abs" not in row
    assert row["update/ratio_first_max_abs"] < 1e-6
    assert row["update/behave_weight_max"] > 1.2
    assert 0.0 < row["update/behave_masked_fraction"] < 1.0
    assert row["version/lag_max"] == 1.0


@pytest.mark.parametrize("lie", [-1000.0, -0.5, 0.01, 1000.0])
def test_a_false_log_prob_of_a_stale_decision_moves_nothing_but_its_own_weight(lie):
    """What a sender can do whose log-probs nobody can replay: count up to twice, or not at all."""
    algorithm = an_update()
    batch = a_batch(algorithm, version=3, acted=2)
    recorded = batch.fields["pirl_logprob"]
    liar = torch.arange(len(recorded)) < len(recorded) // 2
    false = recorded + lie * liar.reshape(-1, *[1] * (recorded.ndim - 1))
    (before, honest), (after, lied) = (
        losses_of(algorithm, b) for b in (batch, with_field(batch, "pirl_logprob", false))
    )
    kept = lied.actor.weight.weight * lied.actor.weight.admitted
    assert 0.0 <= float(kept.min()) <= float(kept.max()) <= 2.0
    assert not torch.equal(kept[liar], honest.actor.weight.weight[liar])
    assert torch.equal(kept[~liar], honest.actor.weight.weight[~liar])
    assert torch.equal(lied.actor.surrogate.loss, honest.actor.surrogate.loss)
    assert torch.equal(after.advantage, before.advantage)
    assert torch.equal(lied.value, honest.value)


def test_samples_beyond_the_weight_limit_give_no_gradient():
    algorithm = an_update(behave_weight_threshold=1.2)
    batch = a_batch(algorithm, version=3, acted=2)
    prepared, _ = losses_of(algorithm, batch)
    # Recorded log-probs far below the proximal ones: every behaviour weight is huge.
    far = with_field(batch, "pirl_logprob", batch.fields["pirl_logprob"] - 1.0)
    _, losses = losses_of(algorithm, far)
    losses.actor.policy.backward()
    assert bool(prepared.sample_mask.any())
    assert all(float(g.abs().max()) == 0.0 for g in gradient(algorithm).values())


def test_the_decoupled_loss_is_ppo_when_the_proximal_policy_acted():
    decoupled, plain = an_update(), an_update(recompute_proximal=False)
    batch = a_batch(decoupled)
    for algorithm in (decoupled, plain):
        algorithm.update(iter([batch]))
    assert equal(weights(decoupled), weights(plain))


def test_without_recomputation_the_anchor_of_stale_data_is_interpolated():
    algorithm = an_update(recompute_proximal=False)
    batch = a_batch(algorithm, version=1, acted=0)
    for parameter in algorithm.policy.trained_parameters().values():
        parameter.data.add_(0.02)
    prepared, losses = losses_of(algorithm, batch)
    gap = losses.actor.replayed - prepared.behaviour
    torch.testing.assert_close(losses.actor.surrogate.log_ratio, 0.5 * gap, atol=1e-5, rtol=1e-4)


def test_a_decision_of_a_later_version_is_refused():
    algorithm = an_update()
    with pytest.raises(NumericsError, match="acted under a version after 2"):
        algorithm.update(iter([a_batch(algorithm, version=2, acted=3)]))


def test_human_decisions_train_the_critic_only():
    algorithm = an_update()
    batch = a_batch(algorithm)
    everyone = with_field(batch, "is_intervention", torch.ones(11, dtype=torch.int64))
    before = algorithm.get_weights()
    row = metric_row(algorithm.update(iter([everyone])))
    assert equal(algorithm.get_weights(), before)
    assert row["update/masked_fraction"] == 1.0
    assert bool(algorithm.critic.last.weight.any())


def test_warm_up_updates_train_the_critic_only_and_still_check_the_ratio():
    algorithm = an_update(critic_warmup_steps=1)
    before = algorithm.get_weights()
    row = metric_row(algorithm.update(iter([a_batch(algorithm)])))
    assert equal(algorithm.get_weights(), before)
    assert bool(algorithm.critic.last.weight.any())
    assert row["update/parity_max_abs"] < 1e-5
    algorithm.update(iter([a_batch(algorithm, version=1)]))
    assert not equal(algorithm.get_weights(), before)


def test_the_epoch_loop_stops_beyond_the_kl_target():
    long = an_update(update_epochs=8, actor_lr=3e-3, global_batch=6)
    short = an_update(update_epochs=8, actor_lr=3e-3, global_batch=6, target_kl=1e-3)
    batch = a_batch(long)
    steps = [metric_row(a.update(iter([batch])))["update/optimiser_steps"] for a in (long, short)]
    assert steps[0] == 16
    assert 1 <= steps[1] < 16


def test_entropy_bonus_widens_flow_noise():
    plain, bonus = an_update("flow-noise"), an_update("flow-noise", entropy_bonus=10.0)
    batch = a_batch(plain)
    for algorithm in (plain, bonus):
        algorithm.update(iter([batch]))
    features = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    wide, narrow = bonus.noise_head(features), plain.noise_head(features)
    assert bool(wide.mean() > narrow.mean())


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference_kl_is_zero_at_the_start_and_pulls_back_later(variant):
    free, tied = an_update(variant), an_update(variant, kl_beta=100.0)
    batch = a_batch(free)
    start = free.get_weights()
    _, losses = losses_of(tied, batch)
    assert float(losses.actor.kl_reference.detach()) == pytest.approx(0.0, abs=1e-9)
    for algorithm in (free, tied):
        for _ in range(2):
            algorithm.update(iter([a_batch(algorithm)]))
    _, losses = losses_of(tied, a_batch(tied))
    assert float(losses.actor.kl_reference.detach()) > 0.0

    def moved(algorithm: PiRLAlgorithm) -> float:
        now = algorithm.policy.trained_parameters()
        return sum(float((now[n].detach() - start[n]).square().sum()) for n in now)

    assert moved(tied) < moved(free)


def test_computing_the_reference_pass_leaves_the_weights_as_they_were():
    algorithm = an_update(kl_beta=1.0)
    algorithm.update(iter([a_batch(algorithm)]))
    before = weights(algorithm)
    algorithm.forward_batch(a_batch(algorithm))
    assert equal(weights(algorithm), before)


def demos():
    return shown_actions(at=2.0, spread=0.1)


def test_demonstrations_add_their_gradient_and_are_reported():
    algorithm = an_algorithm(a_policy(), a_recipe(bc_weight=0.1), demonstrations=demos())
    plain = an_update()
    batch = a_batch(plain)
    row = metric_row(algorithm.update(iter([batch])))
    plain.update(iter([batch]))
    assert row["update/bc_loss"] > 0.0
    assert row["update/grad_norm_bc"] > 0.0
    assert not equal(algorithm.get_weights(), plain.get_weights())


def test_demonstrations_alone_train_by_the_policys_own_loss():
    algorithm = an_algorithm(
        a_policy(), a_recipe(bc_weight=1.0, actor_lr=1e-2), demonstrations=demos()
    )
    human = torch.ones(11, dtype=torch.int64)
    rows = [
        metric_row(
            algorithm.update(
                iter([with_field(a_batch(algorithm, version=v), "is_intervention", human)])
            )
        )
        for v in range(6)
    ]
    assert rows[-1]["update/bc_loss"] < 0.9 * rows[0]["update/bc_loss"]


def test_the_weight_of_demonstrations_falls_evenly_to_zero_or_stays():
    falling = a_recipe(bc_weight=0.6, bc_schedule="linear")
    weights_of_run = [bc_weight(falling, update=u, total_updates=4) for u in range(6)]
    assert weights_of_run == pytest.approx([0.6, 0.45, 0.3, 0.15, 0.0, 0.0])
    staying = a_recipe(bc_weight=0.6)
    assert {bc_weight(staying, update=u, total_updates=4) for u in range(6)} == {0.6}


def test_the_weight_of_every_update_is_reported_and_at_zero_nothing_is_imitated():
    shown = demos()
    pirl = a_recipe(bc_weight=1.0, bc_schedule="linear")
    algorithm = an_algorithm(a_policy(), pirl, demonstrations=shown)
    rows = [metric_row(algorithm.update(iter([a_batch(algorithm, version=v)]))) for v in range(11)]
    assert [row.get("update/bc_weight") for row in rows] == pytest.approx(
        [1 - v / 10 for v in range(10)] + [None]
    )
    assert "update/bc_loss" not in rows[-1]


def test_a_minibatch_imitates_as_many_rows_as_it_has_decisions_and_others_than_the_next():
    shown = demos()
    pirl = a_recipe(bc_weight=0.1, global_batch=4, micro_batch=2, update_epochs=2)
    algorithm = an_algorithm(a_policy(), pirl, demonstrations=shown)
    algorithm.update(iter([a_batch(algorithm)]))
    # Eleven decisions in minibatches of four, four and three, in pieces of two, twice.
    assert [len(rows) for rows in shown.asked] == [2, 2, 2, 2, 2, 1] * 2
    assert len({tuple(rows) for rows in shown.asked}) > 8


def test_the_rows_to_imitate_depend_on_nothing_but_seed_version_epoch_and_minibatch():
    place = {"seed": 3, "version": 5, "epoch": 1, "minibatch": 2}
    rows = demo_rows(1000, 64, **place)
    torch.manual_seed(99)
    assert torch.equal(demo_rows(1000, 64, **place), rows)
    assert 0 <= int(rows.min()) <= int(rows.max()) < 1000
    for name in place:
        assert not torch.equal(demo_rows(1000, 64, **place | {name: place[name] + 1}), rows)


def test_a_demonstration_weight_without_demonstrations_is_refused():
    algorithm = an_update(bc_weight=0.1)
    with pytest.raises(ConfigError) as caught:
        algorithm.update(iter([a_batch(algorithm)]))
    assert caught.value.errors[0].field == "pirl.bc_weight"


def test_critic_epochs_improve_the_fit_and_leave_the_actor_alone():
    plain = an_update()
    more = an_update(value_epochs=40, value_buffer_updates=2)
    batch = a_batch(plain)
    for algorithm in (plain, more):
        algorithm.update(iter([batch]))
    assert equal(plain.get_weights(), more.get_weights())
    errors = [
        float((p.target - a.critic(p.critic_inputs).detach()).square().mean())
        for a in (plain, more)
        for p in [a._prepare(batch)]
    ]
    assert errors[1] < 0.8 * errors[0]


def test_a_reward_that_is_not_finite_names_the_value_loss():
    algorithm = an_update()
    batch = a_batch(algorithm)
    reward = batch.reward.clone()
    reward[2] = float("nan")
    with pytest.raises(NumericsError, match="loss value_loss"):
        algorithm.update(iter([replace(batch, reward=reward)]))


def test_a_gradient_that_is_not_finite_names_its_parameter(monkeypatch):
    algorithm = an_update()
    batch = a_batch(algorithm)
    name, parameter = next(iter(algorithm.policy.trained_parameters().items()))
    parameter.register_hook(lambda grad: grad * float("inf"))
    before = weights(algorithm)
    with pytest.raises(NumericsError, match=f"gradient of {re.escape(name)}"):
        algorithm.update(iter([batch]))
    assert equal(weights(algorithm), before)


def test_actor_and_critic_gradients_are_clipped_apart():
    algorithm = an_update(value_coef=1e6, grad_clip=0.5, update_epochs=1, global_batch=64)
    norms = []
    algorithm._optimizer.register_step_pre_hook(
        lambda optimizer, *_: norms.extend(
            float(torch.nn.utils.get_total_norm([p.grad for p in g["params"]]))
            for g in optimizer.param_groups
            if g["name"] == "critic"
        )
    )
    row = metric_row(algorithm.update(iter([a_batch(algorithm)])))
    assert row["update/grad_norm_critic"] > 1e3
    assert norms[0] == pytest.approx(0.5, rel=1e-3)
    plain = metric_row(
        an_update(update_epochs=1, global_batch=64).update(iter([a_batch(an_update())]))
    )
    assert row["update/grad_norm_actor"] == pytest.approx(plain["update/grad_norm_actor"])


def test_an_update_whose_groups_carry_no_signal_changes_nothing():
    algorithm = an_update(adv_type="grpo", group_size=2)
    episodes = [Episode(rewards=(0.0, 1.0), group=0)] * 2
    before = weights(algorithm)
    row = metric_row(algorithm.update(iter([a_batch(algorithm, episodes=episodes)])))
    assert row["update/groups_kept"] == 0.0
    assert equal(weights(algorithm), before)


def test_grpo_trains_without_a_critic():
    algorithm = an_update(adv_type="grpo", group_size=2)
    episodes = [Episode(rewards=(0.0, 1.0), group=0), Episode(rewards=(0.0, 0.0), group=0)]
    before = algorithm.get_weights()
    row = metric_row(algorithm.update(iter([a_batch(algorithm, episodes=episodes)])))
    assert algorithm.critic is None
    assert row["update/groups_kept"] == 1.0
    assert not equal(algorithm.get_weights(), before)


def test_shuffled_advantages_change_the_actors_update_and_not_the_critics_targets():
    plain, control = an_update(), an_update(shuffle_advantages=True)
    batch = a_batch(plain)
    a, b = plain._prepare(batch), control._prepare(batch)
    assert sorted(a.advantage.tolist()) == sorted(b.advantage.tolist())
    assert not torch.equal(a.advantage, b.advantage)
    assert torch.equal(a.target, b.target)


def test_trajectory_weighting_counts_every_episode_equally():
    algorithm = an_update(loss_weighting="trajectory")
    prepared = algorithm._prepare(a_batch(algorithm))
    lengths = torch.tensor([len(e.rewards) for e in EPISODES])
    episode = torch.arange(4).repeat_interleave(lengths)
    total = torch.zeros(4).index_add_(0, episode, prepared.actor_weight)
    torch.testing.assert_close(total, torch.full((4,), 11 / 4))
    flat = an_update(loss_weighting="chunk")
    assert flat._prepare(a_batch(flat)).actor_weight.tolist() == [1.0] * 11


@pytest.mark.parametrize("weighting", ["trajectory", "chunk"])
def test_the_first_losses_are_the_weighted_means_written_out(weighting):
    algorithm = an_update(loss_weighting=weighting)
    prepared, losses = losses_of(algorithm, a_batch(algorithm))
    # At ratio one the surrogate is -A; at a zero critic the value loss is target^2 / 2.
    policy = -(prepared.actor_weight * prepared.advantage).mean()
    value = (prepared.critic_weight * 0.5 * prepared.target.square()).mean()
    torch.testing.assert_close(losses.actor.policy, policy)
    torch.testing.assert_close(losses.value, value)
    assert (float(prepared.actor_weight.std()) > 0.0) == (weighting == "trajectory")


def test_normalisation_is_a_knob():
    normal, raw = an_update(), an_update(normalize_advantages=False)
    batch = a_batch(normal)
    a, b = normal._prepare(batch), raw._prepare(batch)
    assert float(a.advantage.mean()) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(b.advantage, b.target - b.old_value)


def hopeless_update(**knobs: object) -> tuple[PiRLAlgorithm, DecisionBatch]:
    """Every episode fails; all that the advantages hold is a random critic's noise."""
    algorithm = an_update(**{"actor_lr": 0.05, **knobs})
    generator = torch.Generator().manual_seed(0)
    algorithm.critic.last.weight.data.normal_(std=2e-3, generator=generator)
    batch = a_batch(algorithm)
    return algorithm, replace(batch, reward=torch.zeros_like(batch.reward))


def test_a_batch_with_nothing_to_learn_does_not_move_the_actor(caplog):
    """One step on it reaches KL 1 and more without the floor; with it the actor stays."""
    loose, batch = hopeless_update(adv_std_floor=0.0)
    row = metric_row(loose.update(iter([batch])))
    assert 0.0005 < row["update/advantage_std"] < 0.005
    assert row["update/advantage_floored"] == 0.0
    assert row["update/approx_kl"] > 1.0
    assert row["update/ratio_min"] < 1e-3
    assert caplog.text == ""

    floored, batch = hopeless_update()
    before = weights(floored)
    row = metric_row(floored.update(iter([batch])))
    after = weights(floored)
    assert row["update/advantage_floored"] == 1.0
    assert row["update/optimiser_steps"] > 0
    critic = {name for name in before if name.startswith("critic.")}
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - critic)
    assert any(not torch.equal(after[name], before[name]) for name in critic)
    kl = floored.forward_batch(batch).metrics["update/approx_kl"]
    assert kl < 1e-9
    message = (
        r"version 0: advantages of 11 decisions have std 0\.00\d+, below pirl.adv_std_floor=0.01"
    )
    assert len(re.findall(message, caplog.text)) == 1
    assert "the actor takes no step" in caplog.text


def test_a_larger_divisor_alone_would_not_bound_the_step():
    """Why the actor is left out: AdamW's step does not depend on the scale of the gradient."""
    moved = []
    for scale in (1.0, 0.01):
        algorithm, batch = hopeless_update(adv_std_floor=0.0, actor_lr=1e-3, weight_decay=0.0)
        prepared = algorithm._prepare(batch)
        shrunk = replace(prepared, advantage=prepared.advantage * scale)
        algorithm._prepare = lambda _, shrunk=shrunk: shrunk
        before = algorithm.get_weights()
        algorithm.update(iter([batch]))
        after = algorithm.get_weights()
        moved.append(torch.cat([(after[n] - before[n]).flatten() for n in before]))
    assert float(moved[0].abs().max()) > 1e-3
    assert float((moved[0] - moved[1]).norm()) < 0.02 * float(moved[0].norm())


def test_the_adaptive_rate_ignores_an_update_that_left_the_actor_out():
    algorithm, batch = hopeless_update(lr_schedule="kl_adaptive", target_kl=0.03, actor_lr_max=1.0)
    algorithm.update(iter([batch]))
    assert algorithm.training_state()["lr_scale"] == 1.0


def test_demonstrations_still_train_when_the_advantages_hold_nothing(caplog):
    algorithm = an_algorithm(a_policy(), a_recipe(bc_weight=0.1), demonstrations=demos())
    batch = a_batch(algorithm)
    before = algorithm.get_weights()
    algorithm.update(iter([replace(batch, reward=torch.zeros_like(batch.reward))]))
    assert not equal(algorithm.get_weights(), before)
    assert "demonstrations outweigh them" in caplog.text


def test_advantages_that_are_not_normalised_have_no_floor():
    algorithm, batch = hopeless_update(normalize_advantages=False)
    assert not algorithm._prepare(batch).floored


@pytest.mark.parametrize("source", ["vlm", "vlm_tokens", "action_tokens"])
@pytest.mark.parametrize("bootstrap", [True, False])
def test_only_ends_that_may_go_on_look_at_their_next_observation(source, bootstrap):
    algorithm = an_update(value_source=source, bootstrap_on_truncation=bootstrap)
    algorithm.critic.last.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    batch = a_batch(algorithm)
    # The third episode is cut off by the end of collection: neither terminal nor truncated.
    opened = replace(batch, terminated=batch.terminated & (torch.arange(11) != 6))
    moved = replace(opened.next_observation, state=opened.next_observation.state * 3.0 - 1.0)
    moved = replace(moved, state=moved.state * torch.tensor([1.0, -1.0, 2.0]))
    a = algorithm._prepare(opened).target
    b = algorithm._prepare(replace(opened, next_observation=moved)).target
    episode = torch.arange(4).repeat_interleave(torch.tensor([3, 2, 2, 4]))
    changed = {int(e) for e in episode[a != b]}
    assert changed == ({1, 2, 3} if bootstrap else {2})


def test_the_time_of_the_next_decision_is_one_later():
    algorithm = an_update(value_source="vlm_tokens")
    algorithm.critic.last.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    batch = a_batch(algorithm)
    nothing = torch.zeros(11, dtype=torch.bool)
    # Next observation = own observation: the two values of an end differ by the time alone.
    same = replace(batch, terminated=nothing, truncated=nothing, next_observation=batch.observation)
    prepared = algorithm._prepare(same)
    end = 10
    later = prepared.critic_inputs[end : end + 1].clone()
    later[:, -1] = torch.log1p(torch.tensor(4.0))
    expected = batch.reward[end] + 0.99 * algorithm.critic(later)[0]
    torch.testing.assert_close(prepared.target[end], expected.detach())


def test_minibatch_order_depends_on_the_version():
    orders = []
    for version in (0, 1):
        algorithm = an_update(global_batch=4)
        batch = a_batch(algorithm)
        stamped = with_field(batch, "pirl_version", torch.full((11,), version))
        algorithm.update(iter([replace(stamped, policy_version=version)]))
        orders.append(algorithm.get_weights())
    assert not equal(*orders)


def test_every_pass_that_is_compared_has_the_same_number_of_rows(monkeypatch):
    algorithm = an_update(global_batch=6, micro_batch=4)
    batch = a_batch(algorithm)
    plain = algorithm.policy.predict
    sizes = []

    def counted(context, x, t):
        sizes.append(len(context))
        return plain(context, x, t)

    monkeypatch.setattr(algorithm.policy, "predict", counted)
    algorithm.update(iter([batch]))
    # Eleven decisions: three anchor passes, then two epochs of minibatches of six and five.
    assert sizes == [4] * (3 + 2 * 4)


class Pieces(ToyPolicy):
    """Writes down how many predictions each call has, and whether a graph was kept."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.calls: list[tuple[int, bool]] = []

    def predict(self, context, x, t):
        self.calls.append((len(x), torch.is_grad_enabled()))
        return super().predict(context, x, t)


def pieces_of(variant: str, **knobs: object) -> tuple[PiRLAlgorithm, Pieces]:
    policy = Pieces(
        chunk_size=3, executed_steps=2, dims=3, denoising_steps=4, hidden=16, dtype=torch.float64
    )
    pirl = a_recipe(variant, global_batch=6, micro_batch=6, **knobs)
    return an_algorithm(policy, pirl), policy


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("most", [4, 6, 1])
def test_activations_are_held_for_equal_pieces_and_the_gradient_is_the_same(variant, most):
    whole, _ = pieces_of(variant)
    parts, policy = pieces_of(variant, recompute_activations=most)
    batch = a_batch(whole)
    gradients = []
    for algorithm in (whole, parts):
        _, losses = losses_of(algorithm, batch)
        policy.calls.clear()
        losses.total.backward()
        gradients.append(gradient(algorithm))
    # The eleven rows of this one minibatch have no divisor but 1; Flow-Noise has 4 predictions each.
    held = {count for count, _ in policy.calls}
    assert held == ({4 if most >= 4 else 1} if variant == "flow-noise" else {1})
    assert len(policy.calls) == (44 if variant == "flow-noise" else 11) // max(held)
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-9, rtol=1e-9)

    batch = a_batch(parts)
    policy.calls.clear()
    row = metric_row(parts.update(iter([batch])))
    assert row["update/ratio_first_max_abs"] == 0.0
    predictions = 6 * (4 if variant == "flow-noise" else 1)
    expected = next(n for n in range(min(most, predictions), 0, -1) if predictions % n == 0)
    assert {count for count, _ in policy.calls} == {expected}
