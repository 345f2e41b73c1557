"""`pirl.precision`: what is kept in which dtype, what does not move, and one table of tolerances."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from contract_builders import a_config, a_policy, an_observation, noise
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy
from test_forward import VARIANTS, a_batch

from pirl.algorithm.pi_rl import PiRLAlgorithm, PiRLAlgorithmConfig, metric_row
from pirl.audit.criteria import learning
from pirl.checkpoint import RunState, load_checkpoint, save_checkpoint
from pirl.config.check import check_config
from pirl.config.load import load_config
from pirl.config.preflight import preflight_summary
from pirl.config.recipe import PRECISIONS, LastStepStd, PiRLConfig
from pirl.contract.check import check_flow_policy
from pirl.contract.digests import architecture_digest, weights_digest
from pirl.contract.precision import BF16_FROZEN, FP32, TF32, precision_of, tolerances
from pirl.errors import ConfigError, MismatchError, NumericsError
from pirl.gate import profiles
from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.kind import KIND
from pirl.policies.xvla.policy import XVLAFlowPolicy
from pirl.policies.xvla.stock import stock_generate
from pirl.runtime.check_policy import stock_sampler
from pirl.runtime.identity import settings_of
from pirl.runtime.session import build_session

EMBEDDED = "configs/train_config_pirl_embedded.json"
DIMS = range(10)
HALF = [f"--pirl.precision={BF16_FROZEN}"]


def built(precision, *, seed=0):
    """The same weights for every mode."""
    return XVLAFlowPolicy(a_policy(seed=seed).module, executed_dims=DIMS, precision=precision)


def an_algorithm(precision, variant="flow-sde", **knobs):
    recipe = {"value_hidden": (16,), "value_last_init": "normal", "adv_std_floor": 0.0}
    pirl = PiRLConfig(variant=variant, **{**recipe, **VARIANTS[variant], **knobs})
    algorithm = PiRLAlgorithm(built(precision), PiRLAlgorithmConfig(pirl=pirl, seed=0))
    algorithm.make_optimizers_and_scheduler()
    return algorithm


def size(parameters):
    return sum(p.numel() * p.element_size() for p in parameters.values())


# The frozen part in bfloat16


def test_the_frozen_part_takes_half_the_memory_and_what_trains_is_as_it_was():
    plain, half = built(FP32), built(BF16_FROZEN)
    assert 2 * size(half.frozen_parameters()) == size(plain.frozen_parameters())
    assert {p.dtype for p in half.frozen_parameters().values()} == {torch.bfloat16}
    assert size(half.trained_parameters()) == size(plain.trained_parameters())
    trained = [weights_digest(dict(policy.trained_parameters())) for policy in (plain, half)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("mode", [FP32, TF32, BF16_FROZEN])
def test_the_contract_holds_in_every_mode(mode):
    policy, config = built(mode), a_config()
    observation = an_observation(config, rows=3)
    report = check_flow_policy(policy, observation)
    assert report.passed, report.failed
    assert stock_sampler(policy, KIND, observation).status.value == "kept"


def test_features_are_fp32_near_the_plain_ones_and_equal_in_batches_of_any_size():
    plain, half = built(FP32), built(BF16_FROZEN)
    observation = an_observation(a_config(), rows=5)
    wanted, got = plain.encode(observation), half.encode(observation)
    for name, value in got.tensors.items():
        assert value.dtype == wanted.tensors[name].dtype
    gap = got.tensors["vlm_features"] - wanted.tensors["vlm_features"]
    rms = float(gap.square().mean().sqrt() / wanted.tensors["vlm_features"].square().mean().sqrt())
    # bfloat16 has 8 bits of mantissa: 2e-3 for a rounding, a few of them in a row.
    assert 1e-4 < rms < 2e-2
    for row in range(5):
        alone = half.encode(observation.index(slice(row, row + 1)))
        for name, value in got.tensors.items():
            assert torch.equal(alone.tensors[name], value[row : row + 1])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("mode", [FP32, BF16_FROZEN])
def test_the_recorded_log_prob_is_what_a_learner_replays_in_other_batches(
    mode, micro_batch, variant
):
    algorithm = an_algorithm(
        mode, variant, micro_batch=micro_batch, global_batch=3, update_epochs=1
    )
    batch = a_batch(algorithm)
    before = {n: p.detach().clone() for n, p in algorithm.policy.frozen_parameters().items()}
    row = metric_row(algorithm.update(iter([batch])))
    limit = tolerances(mode, device="cpu")
    assert algorithm.limits.parity == limit.parity
    assert row["update/parity_max_abs"] <= limit.parity
    assert row["update/ratio_first_max_abs"] <= limit.ratio
    # A tenth is what is measured; the limit leaves room for kernels of other CPUs.
    assert row["update/parity_max_abs"] <= limit.parity / 10
    frozen = algorithm.policy.frozen_parameters()
    assert all(torch.equal(p, before[n]) for n, p in frozen.items())
    assert row["update/grad_norm_actor"] > 0.0


def test_an_actor_of_another_mode_is_told_by_its_log_prob_too():
    """Beyond the refused config: the rounding of the frozen part is far above the tolerance."""
    batch = a_batch(an_algorithm(FP32))
    with pytest.raises(NumericsError, match="replayed log-prob differs"):
        an_algorithm(BF16_FROZEN).update(iter([batch]))


def test_demonstrations_and_copies_work_as_before():
    half = built(BF16_FROZEN)
    observation = an_observation(a_config())
    batch = half.demo_batch(observation, torch.zeros(2, 12, 20))
    loss = half.demo_loss(batch, rng=torch.Generator().manual_seed(0))
    loss.backward()
    assert all(p.grad is None for p in half.frozen_parameters().values())
    assert half.module.model.forward_vlm.__self__ is half.module.model
    copy = deepcopy(half.module)
    assert copy.model.forward_vlm.__self__ is copy.model


def test_a_saved_policy_loads_in_stock_lerobot_and_again_to_the_same_bits(tmp_path):
    half = built(BF16_FROZEN)
    folder = half.save(tmp_path / "policy", env_type="libero")
    plain = built(FP32).save(tmp_path / "plain", env_type="libero")
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, plain)]
    assert sizes[0] < sizes[1]
    config = a_config()
    config.pretrained_path = folder
    again = build_policy(config, executed_dims=DIMS, device="cpu", seed=1, precision=BF16_FROZEN)
    digests = [weights_digest(p.module.state_dict()) for p in (half, again)]
    assert digests[0] == digests[1]
    stock = XVLAPolicy.from_pretrained(folder, strict=True)
    assert {p.dtype for p in stock.parameters()} == {torch.float32}
    observation, start = an_observation(config), noise(half)
    ours = stock_generate(half.module, observation, start)
    # Stock computes in fp32 with the rounded weights.
    assert 0 < float((stock_generate(stock, observation, start) - ours).abs().max()) < 0.05


def a_state(step):
    return RunState(run_id="r", step=step, policy_version=step, config_path=EMBEDDED)


def a_run(overrides):
    loaded = load_config(EMBEDDED, overrides)
    session = build_session(loaded, device="cpu", run_id="")
    session.algorithm.make_optimizers_and_scheduler()
    return loaded.cfg, session.policy, session.algorithm


def test_a_checkpoint_of_it_is_resumed_bit_for_bit_and_in_no_other_mode(tmp_path):
    cfg, policy, algorithm = a_run(HALF)
    saved = save_checkpoint(
        tmp_path, state=a_state(1), total_steps=2, cfg=cfg, flow_policy=policy, algorithm=algorithm
    )
    cfg2, other, fresh = a_run([*HALF, "--seed=7"])
    assert weights_digest(other.module.state_dict()) != weights_digest(policy.module.state_dict())
    load_checkpoint(saved.path, cfg=cfg, flow_policy=other, algorithm=fresh, run_dir=None)
    assert weights_digest(other.module.state_dict()) == weights_digest(policy.module.state_dict())
    del cfg2
    plain_cfg, plain, plain_algorithm = a_run([])
    with pytest.raises(MismatchError, match=r"precision"):
        load_checkpoint(
            saved.path,
            cfg=plain_cfg,
            flow_policy=plain,
            algorithm=plain_algorithm,
            run_dir=None,
        )


# Who may ask for it, and who is told


def test_an_actor_of_another_mode_has_another_identity():
    plain, half = (settings_of(load_config(EMBEDDED, o).cfg) for o in ([], HALF))
    assert [name for name in plain if plain[name] != half[name]] == ["noise_settings"]
    assert "precision=bf16-frozen" in half["noise_settings"]
    assert architecture_digest(built(FP32)) != architecture_digest(built(BF16_FROZEN))


@pytest.mark.parametrize("mode", PRECISIONS)
def test_a_mode_is_in_the_summary_and_tf32_on_a_cpu_is_said_to_do_nothing(mode):
    said = preflight_summary(check_config(EMBEDDED, [f"--pirl.precision={mode}"]))
    assert f"{mode}, without effect on a CPU" in said if mode == TF32 else mode in said
    assert ("without effect" in said) is (mode == TF32)


def test_tf32_on_a_cpu_is_logged_and_computes_the_same_bits(caplog):
    loaded = load_config(EMBEDDED, ["--pirl.precision=tf32"])
    before = [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]
    try:
        session = build_session(loaded, device="cpu", run_id="")
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    assert "tf32 has no effect on a CPU" in caplog.text
    assert precision_of(session.policy) == TF32
    observation = an_observation(a_config())
    one, two = built(FP32).encode(observation), built(TF32).encode(observation)
    assert all(torch.equal(one.tensors[n], two.tensors[n]) for n in one.tensors)


def test_without_a_frozen_part_there_is_nothing_to_keep_in_bfloat16():
    with pytest.raises(ConfigError) as caught:
        check_config(EMBEDDED, [*HALF, "--pirl.train_scope=all"])
    (error,) = caught.value.errors
    assert error.field == "pirl.precision"
    assert check_config(EMBEDDED, ["--pirl.precision=tf32", "--pirl.train_scope=all"])


def test_every_mode_is_one_of_x_vlas():
    assert set(KIND.precisions) == set(PRECISIONS) == {FP32, TF32, BF16_FROZEN}


def test_the_gate_judges_fp32_only(tmp_path):
    chosen = profiles.Profile(name="embedded", reason="test")
    with pytest.raises(ConfigError, match=r"pirl\.precision = 'bf16-frozen'"):
        profiles.resolve_config(
            chosen, variant="flow-sde", overrides=HALF, target=tmp_path / "train_config.json"
        )


# Tolerances


def test_less_noise_makes_the_same_rounding_a_larger_log_prob():
    wide, narrow = (tolerances(FP32, device="cpu", std=std) for std in (0.02, 0.001))
    assert (wide.parity, wide.ratio) == (1e-3, 1e-3)
    assert (narrow.parity, narrow.ratio) == (pytest.approx(5e-3), pytest.approx(5e-3))
    assert narrow.batching == wide.batching


def test_the_smallest_std_of_the_executed_dims_counts():
    std = LastStepStd(xyz=0.001, rot6d=0.02, gripper_logit=1.0)
    assert an_algorithm(FP32, last_step_std=std).limits.parity == pytest.approx(5e-3)
    unused = LastStepStd(joint=1e-4, other=1e-4)
    assert an_algorithm(FP32, last_step_std=unused).limits.parity == 1e-3


def test_a_config_may_state_its_own():
    session = build_session(
        load_config(EMBEDDED, ["--runtime.parity_tol=0.5"]), device="cpu", run_id=""
    )
    assert (session.algorithm.limits.parity, session.algorithm.limits.ratio) == (0.5, 1e-3)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_audit_asks_for_what_a_run_allows_itself(device):
    allowed = tolerances(FP32, device=device)
    numerics = f"{device}/float32"
    asked = {
        c.name.partition("/")[2]: c.threshold_for(numerics) for c in learning.criterion.criteria
    }
    assert asked["parity_max_abs"] == allowed.parity
    assert asked["ratio_first_max_abs"] == allowed.ratio
