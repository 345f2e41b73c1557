"""`pirl.train_scope`: which tensors train, and that a trained encoder is never read from a cache."""

import pytest
import torch
from contract_builders import a_config, a_policy, an_observation
from test_forward import VARIANTS, a_batch

from pirl.algorithm.objective import Counts, minibatch_losses
from pirl.algorithm.pi_rl import PiRLAlgorithm, PiRLAlgorithmConfig, metric_row
from pirl.algorithm.prepare import prepare
from pirl.algorithm.replicas import ALONE
from pirl.config.bounds import Words, bound_at
from pirl.config.recipe import PiRLConfig
from pirl.contract.check import check_flow_policy
from pirl.contract.digests import weights_digest
from pirl.policies.xvla.policy import TRAINED_PREFIXES, XVLAFlowPolicy

DIMS = range(10)


def an_algorithm(scope, variant="flow-sde", **knobs):
    recipe = {"value_hidden": (16,), "value_last_init": "normal", "train_scope": scope}
    pirl = PiRLConfig(variant=variant, **{**recipe, **VARIANTS[variant], **knobs})
    policy = XVLAFlowPolicy(
        a_policy(executed_dims=DIMS).module, executed_dims=DIMS, train_scope=scope
    )
    return PiRLAlgorithm(policy, PiRLAlgorithmConfig(pirl=pirl, seed=0))


def vlm_digest(algorithm):
    vlm = algorithm.policy.module.model.vlm
    return weights_digest({name: p.detach() for name, p in vlm.named_parameters()})


def disturb_the_vlm(algorithm):
    tower = algorithm.policy.module.model.vlm.vision_tower
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng))


@pytest.mark.parametrize("variant", VARIANTS)
def test_scope_all_freezes_nothing_and_every_tensor_gets_a_gradient(variant):
    algorithm = an_algorithm("all", variant)
    policy = algorithm.policy
    assert policy.trains_encoder
    assert not policy.frozen_parameters()
    algorithm.forward_batch(a_batch(algorithm)).total.backward()
    without = [n for n, p in policy.trained_parameters().items() if p.grad is None]
    assert not without
    assert any("vision_tower" in name for name in policy.trained_parameters())
    assert all(bool(p.grad.isfinite().all()) for p in policy.trained_parameters().values())


def test_the_gradient_of_the_vlm_is_the_slope_of_the_loss():
    """Central difference along the gradient; the ratio's anchor is the recorded log-prob."""
    algorithm = an_algorithm("all", recompute_proximal=False, value_coef=0.0)
    batch = a_batch(algorithm)
    algorithm.forward_batch(batch).total.backward()
    tower = algorithm.policy.module.model.vlm.vision_tower
    direction = {p: p.grad.clone() for p in tower.parameters()}
    squared = sum(float(g.square().sum()) for g in direction.values())

    @torch.no_grad()
    def loss(step):
        for parameter, gradient in direction.items():
            parameter.add_(step * gradient)
        value = algorithm.forward_batch(batch).total
        for parameter, gradient in direction.items():
            parameter.sub_(step * gradient)
        return float(value)

    step = 1e-4 / squared**0.5
    slope = (loss(step) - loss(-step)) / (2 * step)
    assert slope == pytest.approx(squared, rel=0.05)


def test_encode_keeps_a_graph_only_when_asked_and_only_with_scope_all():
    config = a_config()
    observation = an_observation(config)
    wide = an_algorithm("all").policy
    narrow = an_algorithm("transformer").policy
    assert not wide.encode(observation).tensors["vlm_features"].requires_grad
    assert not narrow.encode(observation, gradient=True).tensors["vlm_features"].requires_grad
    context = wide.encode(observation, gradient=True)
    assert context.tensors["vlm_features"].requires_grad
    assert not context.critic_features.requires_grad


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_update_moves_the_vlm_with_scope_all_and_leaves_it_otherwise(variant):
    for scope, moves in (("all", True), ("transformer", False)):
        algorithm = an_algorithm(scope, variant, actor_lr=1e-4)
        before = vlm_digest(algorithm)
        row = metric_row(algorithm.update(iter([a_batch(algorithm)])))
        assert row["update/ratio_first_max_abs"] < 1e-3
        assert (vlm_digest(algorithm) != before) is moves


def test_later_epochs_see_the_vlm_of_now():
    """With a cache, a disturbed vision tower would leave the log-prob where it was."""
    algorithm = an_algorithm("all")
    batch = a_batch(algorithm)
    nets = algorithm._nets
    prepared = prepare(nets, batch, seed=0, reference=None, replicas=ALONE)
    at_start = algorithm.forward_batch(batch).metrics["update/approx_kl"]
    assert at_start == pytest.approx(0.0, abs=1e-6)
    disturb_the_vlm(algorithm)
    rows = torch.arange(len(batch))
    losses = minibatch_losses(
        nets,
        prepared,
        rows,
        live=torch.ones_like(rows, dtype=torch.bool),
        counts=Counts.of(prepared, rows),
    )
    assert float((losses.actor.replayed - prepared.proximal).abs().max()) > 1e-3


def test_the_reference_of_the_kl_term_has_its_own_vlm():
    """KL to the start is zero at the start and not after the vision tower alone has moved."""
    algorithm = an_algorithm("all", kl_beta=1.0)
    batch = a_batch(algorithm)
    at_start = algorithm.forward_batch(batch).losses["kl_reference"].item()
    assert at_start == pytest.approx(0, abs=1e-6)
    disturb_the_vlm(algorithm)
    before = vlm_digest(algorithm)
    assert algorithm.forward_batch(batch).losses["kl_reference"].item() > 1e-3
    assert vlm_digest(algorithm) == before


def test_the_contract_knows_every_scope_that_a_config_may_name():
    declared = bound_at(vars(PiRLConfig)["__dataclass_fields__"]["train_scope"])
    assert isinstance(declared, Words)
    assert set(TRAINED_PREFIXES) == set(declared.words)


def test_weights_that_travel_include_the_vlm_with_scope_all():
    teacher, pupil = an_algorithm("all"), an_algorithm("all")
    disturb_the_vlm(teacher)
    assert vlm_digest(teacher) != vlm_digest(pupil)
    pupil.load_weights(teacher.get_weights())
    assert vlm_digest(teacher) == vlm_digest(pupil)
    assert not any(
        name.startswith("model.vlm.") for name in an_algorithm("transformer").get_weights()
    )


@pytest.mark.parametrize("scope", ["transformer", "all"])
def test_the_contract_holds_in_either_scope(scope):
    config = a_config()
    report = check_flow_policy(an_algorithm(scope).policy, an_observation(config))
    assert report.passed, report.failed
