"""One case per knob of the recipe, away from its default and where it bites.

The names are what `mutations.toml` points at.
"""

from __future__ import annotations

from dataclasses import replace

from oracle_compare import EPISODES, Case
from oracle_toys import Episode

SDE, NOISE = "flow-sde", "flow-noise"
STALE = (
    Episode(rewards=(0.0, 0.0, 1.0), stale=2, last_rows=1),
    Episode(rewards=(0.0, 0.5), end="truncated", stale=1, human=(0,)),
    Episode(rewards=(1.0,)),
    Episode(rewards=(0.0,), end="truncated", stale=1),
    Episode(rewards=(0.25, 0.0), end="open"),
)
GROUPS = tuple(
    Episode(rewards=rewards, end=end, group=group, last_rows=rows)
    for group, rewards, end, rows in (
        (7, (0.0, 1.0), "terminated", 1),
        (7, (0.0, 0.0, 0.0), "truncated", 2),
        (7, (1.0,), "terminated", 2),
        (7, (0.0, 0.0), "truncated", 2),
        # All alike: outside the filter.
        (8, (1.0,), "terminated", 1),
        (8, (0.0, 1.0), "terminated", 2),
        (8, (1.0,), "terminated", 2),
        (8, (1.0,), "terminated", 2),
        # One episode short, and one that is not finished.
        (9, (1.0,), "terminated", 2),
        (9, (0.0,), "truncated", 2),
        (10, (1.0,), "terminated", 2),
        (10, (0.0,), "truncated", 2),
        (10, (0.0, 0.0), "open", 2),
        (10, (1.0,), "terminated", 2),
    )
)


def a_group(*scores: float, group: int) -> tuple[Episode, ...]:
    """One finished episode per score."""
    return tuple(Episode(rewards=(0.0, s), end="truncated", group=group) for s in scores)


def short(episodes: tuple[Episode, ...]) -> tuple[Episode, ...]:
    """Every last chunk cut after its first row."""
    return tuple(replace(e, last_rows=1) for e in episodes)


def at_last_step(**knobs: object) -> dict[str, object]:
    """Knobs under which the last step is the stochastic one."""
    chosen = {"flow_sde__step_sampling": "weights", "flow_sde__step_weights": (0.0, 0.0, 1.0)}
    return {**chosen, **knobs}


def sde(**knobs: object) -> Case:
    return Case(variant=SDE, knobs=knobs)


def noise(**knobs: object) -> Case:
    # Every step is scored: two steps have a first, a last, and cost less than three.
    return Case(variant=NOISE, steps=2, knobs=knobs)


FAST = dict(actor_lr=0.08, update_epochs=3)
"""Steps long enough for ratios to leave every interval."""

CASES: dict[str, Case] = {
    # The chain.
    "base": replace(sde(), updates=2),
    "base-noise": replace(noise(), steps=3, updates=2),
    "noise-level": sde(flow_sde__noise_level=0.9),
    "w-rule-vp": sde(flow_sde__w_rule="vp"),
    "flow-cps": sde(flow_sde__noise_method="flow_cps", flow_sde__noise_level=0.3),
    "flow-cps-own-last-step": sde(
        flow_sde__noise_method="flow_cps",
        flow_sde__step_sampling="exclude_last",
        last_step_rule="sde",
    ),
    "step-weights": replace(sde(**at_last_step()), episodes=short(EPISODES)),
    "exclude-last": sde(flow_sde__step_sampling="exclude_last"),
    "all-steps": sde(flow_sde__stochastic_steps="all"),
    "all-steps-euler": sde(flow_sde__stochastic_steps="all", base_sampler="euler"),
    "euler": replace(sde(base_sampler="euler"), steps=4),
    "euler-noise": replace(noise(base_sampler="euler"), steps=4),
    "last-step-sde": replace(sde(last_step_rule="sde", **at_last_step()), episodes=short(EPISODES)),
    "last-step-sde-noise": noise(last_step_rule="sde"),
    "one-step": replace(sde(), steps=1),
    "one-step-noise": replace(noise(), steps=1),
    "noise-on-unused": sde(noise_on_unused=True, flow_sde__stochastic_steps="all"),
    "noise-on-unused-no-gripper": sde(
        noise_on_unused=True, gripper_mode="none", flow_sde__stochastic_steps="all"
    ),
    "executed-dims": replace(sde(executed_dims=(0, 1, 2)), executed_dims=(0, 1, 2)),
    # What counts.
    "bernoulli": replace(sde(gripper_mode="bernoulli"), episodes=short(EPISODES)),
    "bernoulli-all-steps": replace(
        sde(gripper_mode="bernoulli", flow_sde__stochastic_steps="all"), episodes=short(EPISODES)
    ),
    "bernoulli-noise": replace(noise(gripper_mode="bernoulli"), episodes=short(EPISODES)),
    "no-gripper": sde(gripper_mode="none", **at_last_step()),
    "rows-auto": replace(sde(flow_sde__stochastic_steps="all"), episodes=short(EPISODES)),
    "rows-never": replace(
        sde(mask_unexecuted_rows="never", flow_sde__stochastic_steps="all"),
        episodes=short(EPISODES),
    ),
    "rows-always": replace(
        sde(mask_unexecuted_rows="always", flow_sde__stochastic_steps="all"),
        episodes=short(EPISODES),
    ),
    "rows-never-noise": replace(noise(mask_unexecuted_rows="never"), episodes=short(EPISODES)),
    "rows-always-noise": replace(noise(mask_unexecuted_rows="always"), episodes=short(EPISODES)),
    "action-level": sde(logprob_level="action", flow_sde__stochastic_steps="all"),
    "token-level": sde(logprob_level="token", entropy_bonus=0.1),
    "action-level-noise": noise(logprob_level="action", entropy_bonus=0.1, kl_beta=0.3),
    "token-level-noise": noise(logprob_level="token"),
    # Flow-Noise.
    "joint-sum": noise(flow_noise__joint_reduction="sum", entropy_bonus=0.1),
    "std-range": noise(flow_noise__noise_std_range=(0.2, 0.6)),
    "head-detached": noise(flow_noise__noise_head_detach=True),
    "head-hidden": noise(flow_noise__noise_head_hidden=(4, 3)),
    "noise-lr": noise(flow_noise__noise_lr=0.001, lr_schedule="cosine"),
    # Credit.
    "gamma-lambda": sde(gamma=0.8, gae_lambda=0.6),
    "raw-advantages": sde(normalize_advantages=False),
    "std-floor": sde(adv_std_floor=50.0),
    "std-floor-demonstrations": sde(adv_std_floor=50.0, bc_weight=0.7),
    "shuffled": sde(shuffle_advantages=True),
    "bootstrap-on-truncation": sde(bootstrap_on_truncation=True),
    "grpo": replace(sde(adv_type="grpo", group_size=4), episodes=GROUPS),
    "grpo-noise": replace(noise(adv_type="grpo", group_size=4), episodes=GROUPS),
    "grpo-low-bound": replace(
        sde(adv_type="grpo", group_size=4, reward_filter=(0.25, 0.75)),
        episodes=a_group(0.0, 0.0, 0.0, 1.0, group=1) + a_group(0.0, 0.0, 0.0, 0.875, group=2),
    ),
    "grpo-high-bound": replace(
        sde(adv_type="grpo", group_size=4, reward_filter=(0.25, 0.75)),
        episodes=a_group(1.0, 1.0, 0.0, 1.0, group=1) + a_group(1.0, 1.0, 0.125, 1.0, group=2),
    ),
    "grpo-std-floor": replace(
        sde(adv_type="grpo", group_size=4, adv_std_floor=0.4),
        episodes=a_group(0.0, 0.0, 0.0, 1.0, group=1) + a_group(0.25, 0.5, 0.25, 0.5, group=2),
    ),
    "grpo-nothing-kept": replace(
        sde(adv_type="grpo", group_size=4), episodes=a_group(1.0, 1.0, 1.0, 1.0, group=1)
    ),
    # Losses.
    "clip": sde(clip_low=0.02, clip_high=0.04, **FAST),
    "clip-dual": sde(clip_dual=1.02, logprob_level="token", actor_lr=0.08),
    "log-ratio-clamp": sde(log_ratio_clamp=0.03, clip_low=0.5, clip_high=0.5, **FAST),
    "value-clip": sde(value_clip=0.01),
    "huber": sde(huber_delta=0.05),
    "value-coef": sde(value_coef=0.4),
    "chunk-weighting": sde(loss_weighting="chunk"),
    "entropy": noise(entropy_bonus=0.3),
    "kl": replace(sde(kl_beta=2.0), updates=2),
    "kl-all-steps": replace(sde(kl_beta=2.0, flow_sde__stochastic_steps="all"), updates=2),
    "kl-noise": replace(noise(kl_beta=2.0), updates=2),
    "target-kl": sde(target_kl=0.01, **FAST),
    "demonstrations": sde(bc_weight=0.7, global_batch=6, micro_batch=2),
    "demonstrations-fading": replace(
        sde(bc_weight=0.7, bc_schedule="linear", global_batch=5, micro_batch=3), updates=3
    ),
    # Optimiser and loop.
    "adaptive-rate-down": replace(
        sde(lr_schedule="kl_adaptive", target_kl=0.01, **FAST), updates=2
    ),
    "adaptive-rate-last-epoch": replace(
        sde(lr_schedule="kl_adaptive", target_kl=0.004, actor_lr=0.012, update_epochs=4), updates=2
    ),
    "adaptive-rate-up": replace(
        noise(lr_schedule="kl_adaptive", target_kl=3.0, actor_lr=1e-3, actor_lr_max=1.2e-3),
        updates=2,
    ),
    "adaptive-rate-one-step": replace(
        sde(lr_schedule="kl_adaptive", target_kl=0.01, global_batch=64, update_epochs=1), updates=2
    ),
    "cosine": replace(sde(lr_schedule="cosine"), updates=3),
    "betas-eps": sde(betas=(0.7, 0.8), eps=1e-3, update_epochs=3),
    "weight-decay": sde(weight_decay=0.6),
    "value-lr": sde(value_lr=1e-3),
    "grad-clip": replace(sde(grad_clip=0.05), updates=2),
    "grad-clip-noise": replace(noise(grad_clip=0.02), updates=2),
    "warm-up": replace(sde(critic_warmup_steps=1), updates=2),
    "epochs": sde(update_epochs=4),
    "minibatches": sde(global_batch=7, micro_batch=7),
    "micro-batches": noise(global_batch=6, micro_batch=2, entropy_bonus=0.1, kl_beta=0.3),
    "recomputed": noise(recompute_activations=3, global_batch=6, micro_batch=3),
    "recomputed-one-step": sde(recompute_activations=1, gripper_mode="bernoulli"),
    "one-minibatch": sde(global_batch=64, micro_batch=4, update_epochs=1),
    # The critic.
    "vlm-tokens": sde(value_source="vlm_tokens", bootstrap_on_truncation=True),
    "action-tokens": noise(value_source="action_tokens", bootstrap_on_truncation=True),
    "critic-epochs": sde(value_epochs=2, value_hidden=(6,)),
    "critic-epochs-clipped": sde(value_epochs=1, grad_clip=0.01),
    "critic-buffer": replace(sde(value_epochs=2, value_buffer_updates=2), updates=3),
    # Stale data.
    "stale": replace(sde(), episodes=STALE, updates=2),
    "stale-noise": replace(noise(logprob_level="action"), episodes=STALE, updates=2),
    "stale-threshold": replace(sde(behave_weight_threshold=1.05), episodes=STALE, updates=2),
    "interpolated": replace(sde(recompute_proximal=False), episodes=STALE, updates=2),
    "interpolated-noise": replace(
        noise(recompute_proximal=False, flow_noise__joint_reduction="sum"),
        episodes=STALE,
        updates=2,
    ),
    # The encoder trains too.
    "all-trains": replace(
        sde(train_scope="all", kl_beta=1.0, value_source="vlm_tokens"), updates=2
    ),
    "all-trains-noise": replace(noise(train_scope="all", bc_weight=0.5), updates=2),
}

NOT_COMPARED = {
    "variant": "chosen by every case",
    "last_step_std": "every recipe of these tests states its own",
    "value_last_init": "the weights a learner starts from are an input of the comparison",
    "precision": "of the networks' own arithmetic; an update takes what they return",
    "staleness_threshold": "the store drops what is older; an update never sees it",
}
"""Knobs that no case sets, with the reason."""
