"""Recipes and batches drawn at random, within the rules of `pirl.config`."""

from __future__ import annotations

from hypothesis import strategies as st
from oracle_compare import Case
from oracle_toys import Episode

OUTER = {
    "base_sampler": ("native", "euler"),
    "noise_on_unused": (False, True),
    "gripper_mode": ("last_step", "bernoulli", "none"),
    "mask_unexecuted_rows": ("auto", "never", "always"),
    "logprob_level": ("chunk", "action", "token"),
    "gamma": (0.99, 0.7),
    "gae_lambda": (0.95, 0.0, 1.0),
    "normalize_advantages": (True, False),
    "adv_std_floor": (0.0, 0.3),
    "shuffle_advantages": (False, True),
    "bootstrap_on_truncation": (False, True),
    "clip_low": (0.2, 0.02),
    "clip_high": (0.2, 0.03),
    "clip_dual": (3.0, 1.02),
    "log_ratio_clamp": (20.0, 0.1),
    "value_clip": (0.2, 0.01),
    "huber_delta": (10.0, 0.1),
    "value_coef": (1.0, 0.3),
    "loss_weighting": ("trajectory", "chunk"),
    "entropy_bonus": (0.0, 0.1),
    "kl_beta": (0.0, 1.0),
    "bc_weight": (0.0, 0.5),
    "bc_schedule": ("constant", "linear"),
    "actor_lr": (0.02, 0.06),
    "betas": ((0.9, 0.95), (0.5, 0.8)),
    "weight_decay": (0.1, 0.0),
    "grad_clip": (1.0, 0.05),
    "critic_warmup_steps": (0, 1),
    "update_epochs": (1, 2),
    "global_batch": (4, 64),
    "micro_batch": (2, 4),
    "value_source": ("vlm", "vlm_tokens", "action_tokens"),
    "value_epochs": (0, 1),
    "value_buffer_updates": (1, 2),
    "recompute_proximal": (True, False),
    "behave_weight_threshold": (2.0, 1.05),
    "train_scope": ("transformer", "all"),
}
SDE = {
    "noise_method": ("flow_sde", "flow_cps"),
    "noise_level": (0.5, 0.8),
    "w_rule": ("sde", "vp"),
    "stochastic_steps": ("one", "all"),
    "step_sampling": ("uniform", "exclude_last"),
}
NOISE = {
    "noise_std_range": ((0.08, 0.16), (0.2, 0.7)),
    "noise_head_detach": (False, True),
    "joint_reduction": ("mean", "sum"),
    "noise_lr": (None, 0.005),
}
RATES = (
    {},
    {"lr_schedule": "cosine"},
    {"target_kl": 0.01},
    {"lr_schedule": "kl_adaptive", "target_kl": 0.01},
    {"lr_schedule": "kl_adaptive", "target_kl": 1.0, "actor_lr_max": 0.065},
)


def chosen(table: dict[str, tuple[object, ...]]) -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries({name: st.sampled_from(words) for name, words in table.items()})


@st.composite
def episodes(draw: st.DrawFn, *, grouped: bool) -> tuple[Episode, ...]:
    """Two to four episodes; in GRPO two groups of two, which may be unfinished or alike."""
    found: list[Episode] = []
    for index in range(4 if grouped else draw(st.integers(2, 4))):
        length = draw(st.integers(1, 2 if grouped else 3))
        found.append(
            Episode(
                rewards=tuple(draw(st.sampled_from((0.0, 0.25, 1.0))) for _ in range(length)),
                end=draw(st.sampled_from(("terminated", "truncated", "open"))),
                last_rows=draw(st.integers(1, 2)),
                human=tuple(j for j in range(length) if draw(st.integers(0, 5)) == 5),
                group=index // 2 if grouped else -1,
                stale=draw(st.sampled_from((0, 0, 1, 2))),
            )
        )
    return tuple(found)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A recipe that `pirl config validate` would take, and its episodes."""
    steps = draw(st.integers(1, 3))
    knobs = draw(chosen(OUTER)) | draw(st.sampled_from(RATES))
    variant = draw(st.sampled_from(("flow-sde", "flow-noise")))
    if variant == "flow-noise":
        knobs |= {f"flow_noise__{n}": v for n, v in draw(chosen(NOISE)).items()}
        knobs["last_step_rule"] = draw(st.sampled_from(("additive", "sde")))
    else:
        section = draw(chosen(SDE))
        if steps == 1:
            section["step_sampling"] = "uniform"
        knobs |= {f"flow_sde__{n}": v for n, v in section.items()}
        # The last step of Flow-CPS has no density of its own.
        has_own = section["noise_method"] == "flow_sde" or (
            section["step_sampling"] == "exclude_last" and section["stochastic_steps"] == "one"
        )
        knobs["last_step_rule"] = (
            draw(st.sampled_from(("additive", "sde"))) if has_own else "additive"
        )
    grouped = draw(st.booleans())
    if grouped:
        knobs |= {"adv_type": "grpo", "group_size": 2, "reward_filter": (0.125, 0.875)}
        knobs |= {"critic_warmup_steps": 0, "value_epochs": 0}
    return Case(
        variant=variant,
        steps=steps,
        knobs=knobs,
        episodes=draw(episodes(grouped=grouped)),
        updates=draw(st.integers(1, 2)),
        seed=draw(st.integers(0, 3)),
    )
