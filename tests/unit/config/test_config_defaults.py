"""The defaults of every algorithm knob are the published or chosen ones (`algorithm.md` 15.4)."""

from dataclasses import fields

from pirl.config.recipe import (
    FlowNoiseConfig,
    FlowSDEConfig,
    LastStepStd,
    PiRLConfig,
    RuntimeConfig,
)

SHARED = {
    "base_sampler": "native",
    "last_step_rule": "additive",
    "noise_on_unused": False,
    "gripper_mode": "last_step",
    "executed_dims": None,
    "mask_unexecuted_rows": "auto",
    "logprob_level": "chunk",
    "entropy_bonus": 0.0,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "normalize_advantages": True,
    "adv_std_floor": 0.01,
    "bootstrap_on_truncation": False,
    "adv_type": "gae",
    "group_size": 8,
    "reward_filter": (0.1, 0.9),
    "clip_low": 0.2,
    "clip_high": 0.2,
    "clip_dual": 3.0,
    "log_ratio_clamp": 20,
    "value_clip": 0.2,
    "huber_delta": 10.0,
    "value_coef": 1.0,
    "loss_weighting": "trajectory",
    "kl_beta": 0.0,
    "target_kl": None,
    "bc_weight": 0.0,
    "bc_schedule": "constant",
    "actor_lr": 5e-6,
    "value_lr": 1e-4,
    "betas": (0.9, 0.95),
    "eps": 1e-8,
    "weight_decay": 0.01,
    "grad_clip": 1.0,
    "lr_schedule": "constant",
    "critic_warmup_steps": 0,
    "update_epochs": 4,
    "global_batch": 2048,
    "micro_batch": 128,
    "value_hidden": (1024, 512, 256),
    "value_last_init": "zero",
    "value_source": "vlm",
    "recompute_proximal": True,
    "staleness_threshold": 1,
    "behave_weight_threshold": 2.0,
    "train_scope": "transformer",
    "precision": "fp32",
}
FLOW_SDE = {
    "noise_method": "flow_sde",
    "noise_level": 0.5,
    "w_rule": "sde",
    "step_sampling": "uniform",
}
FLOW_NOISE = {
    "joint_reduction": "mean",
    "noise_lr": None,
    "noise_std_range": (0.08, 0.16),
    "noise_head_hidden": (128, 64),
}
LAST_STEP_STD = {"xyz": 0.005, "rot6d": 0.02, "joint": 0.02, "gripper_logit": 1.0}


def test_defaults_are_those_of_the_specification():
    for section, expected in (
        (PiRLConfig(variant="flow-sde"), SHARED),
        (FlowSDEConfig(), FLOW_SDE),
        (FlowNoiseConfig(), FLOW_NOISE),
        (LastStepStd(), LAST_STEP_STD),
        (RuntimeConfig(), {"rollout_chunks": 24576}),
    ):
        own = {field.name: getattr(section, field.name) for field in fields(section)}
        assert {name: own[name] for name in expected} == expected
