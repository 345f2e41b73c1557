"""The table of metric names: unit, meaning, healthy range and what to suspect outside it.

Owns every name that a metric row may carry; `docs/metrics.md` is generated from it. Knows nothing
of files or trackers. Read `pirl.journal.metric_log` next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pirl.errors import EvidenceError

RATIO_EDGES = (0.5, 0.8, 0.95, 1.0, 1.05, 1.2, 2.0)
"""Bin edges of the ratio histogram; bin i counts edges[i-1] <= ratio < edges[i], ends open."""

_INF = math.inf
_HOST_GROUPS = ("time", "link", "system")
"""Groups whose values depend on the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One named number of a run."""

    name: str
    """`group/name` in snake case."""
    unit: str
    meaning: str
    low: float
    high: float
    """Healthy range, both ends included. A hint for a reader, never a threshold of a verdict."""
    suspect: str
    """What to look at first when the value leaves the range; may be empty."""

    @property
    def group(self) -> str:
        return self.name.split("/", 1)[0]

    @property
    def is_deterministic(self) -> bool:
        """Whether an exact resume must reproduce the value bit for bit."""
        return self.group not in _HOST_GROUPS

    @property
    def healthy(self) -> str:
        """The healthy range in words."""
        if self.low == self.high:
            return f"{self.low:g}"
        if math.isinf(self.high):
            return "finite" if math.isinf(self.low) else f"{self.low:g} or more"
        return f"{self.low:g} to {self.high:g}"


_REPLAY = "observation, noise, flow time, dtype or dropout differ between actor and learner"
_RATE = "learning rate too high, too many epochs, stale data"
_STALE = "stale data, or other numerics on the actor"
_LINK = "the link; sent = received = consumed + dropped once a run has ended"

# fmt: off
_ROWS: tuple[tuple[str, str, float, float, str, str], ...] = (
    # name, unit, low, high, meaning, suspect
    ("update/policy_loss", "1", -_INF, _INF, "clipped surrogate, weighted (`algorithm.md` 10.1)", ""),
    ("update/value_loss", "reward^2", 0, _INF, "clipped Huber loss of the critic",
     "critic features, value learning rate"),
    ("update/total_loss", "1", -_INF, _INF, "the sum that is differentiated (`algorithm.md` 10.4)", ""),
    ("update/entropy", "nats", -_INF, _INF, "entropy of the sampled transition", ""),
    ("update/bc_loss", "1", 0, _INF, "the policy's supervised loss on demonstrations", ""),
    ("update/bc_weight", "1", 0, _INF, "weight of that loss in this update (`pirl.bc_schedule`)", ""),
    ("update/approx_kl", "nats", 0, 0.1, "k3 estimate of KL(proximal, current)", _RATE),
    ("update/kl_reference", "nats", 0, _INF, "exact KL to the reference policy", ""),
    ("update/ratio_mean", "1", 0.9, 1.1, "mean ratio of the update", _RATE),
    ("update/ratio_min", "1", 0, _INF, "smallest ratio of the update", _RATE),
    ("update/ratio_max", "1", 0, _INF, "largest ratio of the update", _RATE),
    ("update/ratio_clip_fraction", "share", 0, 0.3, "decisions outside the clip range", _RATE),
    ("update/ratio_dual_clip_fraction", "share", 0, 0.05, "decisions at the dual clip", _RATE),
    ("update/parity_max_abs", "nats", 0, 1e-3,
     "largest |replayed - recorded| decision log-prob before the first optimiser step", _REPLAY),
    ("update/parity_mean_abs", "nats", 0, 1e-3,
     "mean |replayed - recorded| decision log-prob before the first optimiser step", _REPLAY),
    ("update/ratio_first_max_abs", "1", 0, 1e-3, "largest |ratio - 1|, first minibatch", _REPLAY),
    ("update/clip_first_fraction", "share", 0, 0, "clipped decisions, first minibatch", _REPLAY),
    ("update/kl_first", "nats", 0, 1e-6, "k3 estimate, first minibatch", _REPLAY),
    ("update/explained_variance", "1", -0.5, 1, "1 - var(return - value) / var(return)",
     "critic features, value learning rate, too few updates"),
    ("update/grad_norm_actor", "1", 0, _INF, "actor gradient norm before clipping", _RATE),
    ("update/grad_norm_critic", "1", 0, _INF, "critic gradient norm before clipping", ""),
    ("update/grad_norm_bc", "1", 0, _INF, "demonstration gradient norm; at most 0.3 of the actor's",
     "bc_weight too high"),
    ("update/lr_actor", "1", 0, _INF, "learning rate of the actor group", ""),
    ("update/lr_critic", "1", 0, _INF, "learning rate of the critic group", ""),
    ("update/epochs", "count", 0, _INF, "epochs run before the KL stop", ""),
    ("update/optimiser_steps", "steps", 1, _INF, "optimiser steps of this update", "empty batch"),
    ("update/decisions", "decisions", 1, _INF, "decisions consumed", "no actor delivers"),
    ("update/masked_fraction", "share", 0, 0.2, "decisions that the loss ignores", _STALE),
    ("update/advantage_mean", "reward", -_INF, _INF, "mean advantage before normalisation", ""),
    ("update/advantage_std", "reward", 1e-8, _INF, "std of the advantage before normalisation",
     "all episodes end alike: nothing to learn from"),
    ("update/advantage_floored", "count", 0, 0,
     "1 when that std is below pirl.adv_std_floor: the actor took no step",
     "all episodes end alike: nothing to learn from"),
    ("update/return_mean", "reward", -_INF, _INF, "mean return per decision", ""),
    ("update/value_mean", "reward", -_INF, _INF, "mean value per decision", ""),
    ("update/reward_mean", "reward", -_INF, _INF, "mean reward per decision", ""),
    ("update/noise_std_mean", "1", 0, _INF, "mean std of the sampled transition, flow units", ""),
    ("update/behave_weight_mean", "1", 0.9, 1.1, "mean exp(proximal - behaviour)", _STALE),
    ("update/behave_weight_max", "1", 0, _INF, "largest exp(proximal - behaviour)", _STALE),
    ("update/behave_masked_fraction", "share", 0, 0.2,
     "decisions above behave_weight_threshold", _STALE),
    *(
        (f"update/ratio_bin_{index}", "samples", 0, _INF,
         f"log-prob samples in bin {index} of pirl.journal.metrics.RATIO_EDGES", "")
        for index in range(8)
    ),
    ("update/groups", "groups", 0, _INF, "GRPO groups in the batch", ""),
    ("update/groups_kept", "groups", 1, _INF, "GRPO groups inside the reward filter, complete",
     "reward_filter; every episode of a group ends alike"),
    ("update/value_epoch_loss", "reward^2", 0, _INF, "value loss of the critic-only epochs", ""),
    ("update/lr_noise_head", "1", 0, _INF, "learning rate of the noise head", ""),
    ("update/grad_norm_noise_head", "1", 0, _INF, "noise head gradient norm before clipping", ""),
    ("update/non_finite", "count", 0, 0, "values that were not finite",
     "learning rate, noise level, a std of zero"),
    ("rollout/success_rate", "share", 0, 1, "successes / episodes; shown only with both counts",
     "reward, control mode, cameras"),
    ("rollout/successes", "episodes", 0, _INF, "successful episodes", ""),
    ("rollout/episodes", "episodes", 0, _INF, "ended episodes", ""),
    ("rollout/mean_env_steps", "env steps", 0, _INF, "mean episode length", ""),
    ("rollout/mean_decisions", "decisions", 0, _INF, "mean decisions per episode", ""),
    ("rollout/mean_return", "reward", -_INF, _INF, "mean undiscounted episode return", ""),
    ("rollout/env_steps", "env steps", 0, _INF, "env steps of the update's rollouts", ""),
    ("eval/success_rate", "share", 0, 1, "successes / episodes; shown only with both counts", ""),
    ("eval/successes", "episodes", 0, _INF, "successful evaluation episodes", ""),
    ("eval/episodes", "episodes", 0, _INF, "evaluation episodes", ""),
    ("eval/mean_env_steps", "env steps", 0, _INF, "mean evaluation episode length", ""),
    ("version/current", "version", 0, _INF, "policy version after the update", ""),
    ("version/acted", "version", 0, _INF, "policy version an actor sampled with", ""),
    ("version/lag_max", "versions", 0, _INF, "largest policy lag consumed; 0 in sync mode",
     "staleness_threshold, a slow actor"),
    ("version/lag_mean", "versions", 0, _INF, "mean policy lag consumed; 0 in sync mode", ""),
    ("counters/sent", "decisions", 0, _INF, "sent by this actor", _LINK),
    ("counters/received", "decisions", 0, _INF, "received by the learner", _LINK),
    ("counters/consumed", "decisions", 0, _INF, "used by an update", _LINK),
    ("counters/dropped", "decisions", 0, _INF, "discarded for any reason; 0 in sync mode", _STALE),
    ("counters/episodes_sent", "episodes", 0, _INF, "sent by this actor", _LINK),
    ("counters/episodes_received", "episodes", 0, _INF, "received by the learner", _LINK),
    ("counters/env_steps", "env steps", 0, _INF, "since the run began", "a stuck simulator"),
    ("counters/updates", "updates", 0, _INF, "since the run began", ""),
    ("counters/optimiser_steps", "steps", 0, _INF, "since the run began", ""),
    ("counters/rejected_peers", "calls", 0, 0, "calls refused for identity or token",
     "the config of an actor"),
    ("counters/env_errors", "episodes", 0, 0, "episodes that the simulator failed", "its log"),
    ("time/env_step_s", "s", 0, _INF, "simulator steps", ""),
    ("time/render_s", "s", 0, _INF, "camera images", "rendering at every step; GL back end"),
    ("time/reset_s", "s", 0, _INF, "episode resets", ""),
    ("time/preprocess_s", "s", 0, _INF, "observations to policy inputs", ""),
    ("time/infer_s", "s", 0, _INF, "encoding and denoising", "threads fighting for cores"),
    ("time/encode_s", "s", 0, _INF, "transitions to bytes", ""),
    ("time/send_s", "s", 0, _INF, "transitions to the learner", ""),
    ("time/wait_s", "s", 0, _INF, "waiting for the other side", "the slower side"),
    ("time/collect_s", "s", 0, _INF, "one whole rollout", ""),
    ("time/decode_s", "s", 0, _INF, "bytes to decisions", ""),
    ("time/replay_s", "s", 0, _INF, "log-probs under the current weights", ""),
    ("time/update_s", "s", 0, _INF, "one whole update", "threads fighting for cores"),
    ("time/publish_s", "s", 0, _INF, "weights to the actors", ""),
    ("time/checkpoint_s", "s", 0, _INF, "saving", "disk"),
    ("time/wall_s", "s", 0, _INF, "since the process started", ""),
    ("link/bytes_sent", "bytes", 0, _INF, "transition bytes this actor sent", ""),
    ("link/bytes_received", "bytes", 0, _INF, "transition bytes the learner received", ""),
    ("link/param_bytes", "bytes", 0, _INF, "bytes of one published version", ""),
    ("link/actors_connected", "count", 0, _INF, "live actors", "an actor's log"),
    ("link/reconnects", "count", 0, 0, "links lost and found again", "the network"),
    ("system/rss_mib", "MiB", 0, _INF, "resident memory, simulator workers included", ""),
    ("system/cpu_s", "s", 0, _INF, "CPU time since the start, simulator workers included", ""),
    ("system/env_steps_per_s", "1/s", 0, _INF, "env steps per wall second", "the time/ group"),
)
# fmt: on

METRICS: Mapping[str, Metric] = {
    name: Metric(name=name, unit=unit, low=low, high=high, meaning=meaning, suspect=suspect)
    for name, unit, low, high, meaning, suspect in _ROWS
}
"""Every metric by name, in the order of the documentation."""


def lookup(name: str) -> Metric:
    """The entry of `name`.

    Raises:
        EvidenceError: the name is not in the table.
    """
    if name not in METRICS:
        raise EvidenceError(
            f"metric {name!r} is not in the table\n"
            "  fix: add it to pirl/journal/metrics.py with unit, range and meaning"
        )
    return METRICS[name]


def render_markdown() -> str:
    """The text of `docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "Generated from `pirl/journal/metrics.py` by `render_markdown()`; a test keeps both in",
        "step. A resumed run repeats every metric marked *exact* bit for bit (`sync` mode, CPU).",
        "A healthy range is a hint; the thresholds of a verdict are in [evidence.md](evidence.md).",
    ]
    group = ""
    for metric in METRICS.values():
        if metric.group != group:
            group = metric.group
            lines += ["", f"## {group}/", ""]
            lines += ["| name | unit | meaning | healthy | suspect otherwise | resume |"]
            lines += ["|---|---|---|---|---|---|"]
        resume = "exact" if metric.is_deterministic else ""
        cells = (metric.name, metric.unit, metric.meaning, metric.healthy, metric.suspect, resume)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
