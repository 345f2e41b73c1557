"""The policy of the phase-2 gate, fixed in code: criteria, thresholds, claim and limits.

Owns the text whose digest a bundle carries. A bundle cannot loosen a threshold: the verifier reads
this module and never the bundle's copy. Change anything here and raise `POLICY_VERSION`. Read
`pirl.evidence.judge` next.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from typing import Any

from pirl.evidence.criteria import DEFAULT_NUMERICS, IS_TRUE, STEPS, Criterion
from pirl.evidence.outcomes import SUCCESS_DEFINITION

GATE = "phase2-gate"
POLICY_VERSION = "2"

CLAIM = (
    "On this code and config the learner and its actors train together, checkpoint, resume exactly "
    "and refuse peers that do not match."
)

NON_CLAIM = (
    "A success figure of a smoke run is not a performance claim: it shows that episodes ran, not "
    "that the policy is good or that training improves it."
)

PASS_RULE = "passed only if every criterion of every step passed; nothing missing counts as passed"

type _Row = tuple[str, str, float | bool, str, str, str]

# fmt: off
_VALIDATE: tuple[_Row, ...] = (
    # name, comparator, threshold, unit, checklist row, description
    ("config_hash_differs", "==", 0, "", "C1", "hash of the config used by every later step"),
    ("rules_failed", "==", 0, "rules", "C2", "every rule of the config holds"),
    ("rules_checked", ">=", 15, "rules", "C2", "rules that were looked at"),
    ("bad_configs_accepted", "==", 0, "cases", "C2", "invalid configs refused with field and fix"),
    ("contract_failed", "==", 0, "clauses", "E1", "the policy keeps the flow-policy contract"),
    ("contract_checked", ">=", 5, "clauses", "E1", "clauses that were looked at"),
    ("analytic_kinds_missing", "==", 0, "kinds", "E2", "density, std and GAE cases were tried"),
    ("analytic_max_error", "<=", 1e-4, "relative", "E2", "against closed forms of the verifier"),
    ("preflight_failed", "==", 0, "checks", "B5", "machine and environment are ready"),
    ("env_ready", IS_TRUE, True, "", "D5", "the environment resets and renders a visible frame"),
    ("profile_inconsistent", "==", 0, "", "A4", "environment is the one of the profile"),
    ("settings_missing", "==", 0, "settings", "C3", "seeds, sampler, horizon, limits, numerics"),
    ("inputs_missing", "==", 0, "facts", "B2 B3", "checkpoint, licence, assets, states, tasks"),
    ("split_overlap", "==", 0, "states", "B4", "training and held-out states are disjoint"),
    ("checks_disabled", "==", 0, "checks", "G4", "no safety check was turned off"),
)

_LINK: tuple[_Row, ...] = (
    ("processes", ">=", 2, "processes", "D1", "learner and actors are separate processes"),
    ("checks_disabled", "==", 0, "checks", "G4", "no safety check was turned off"),
    ("handshakes_missing", "==", 0, "actors", "D1", "both sides recorded an accepted handshake"),
    ("handshake_fields_differ", "==", 0, "fields", "D1", "identity equal on both sides"),
    ("effective_configs_differ", "==", 0, "processes", "C1", "each process ran the same config"),
    ("decisions_unaccounted", "==", 0, "decisions", "D2", "sent = received = consumed + dropped"),
    ("decisions_consumed", ">=", 1, "decisions", "D2", "decisions that an update used"),
    ("episodes_unaccounted", "==", 0, "episodes", "D2", "sent = received = recorded"),
    ("bytes_unaccounted", "==", 0, "bytes", "D2", "transition bytes sent = received"),
    ("versions_published", ">=", 2, "versions", "D4", "policy versions published, rising"),
    ("versions_acted", ">=", 2, "versions", "D4", "versions received and then used to act"),
    ("exit_codes_nonzero", "==", 0, "processes", "D6", "every process ended with exit code 0"),
    ("processes_left", "==", 0, "processes", "D6", "no process is left"),
    ("ports_left", "==", 0, "ports", "D6", "no port is left open"),
    ("shared_memory_left", "==", 0, "segments", "D6", "no shared memory is left"),
)

_LEARNING: tuple[_Row, ...] = (
    ("updates", ">=", 2, "updates", "D3", "updates that took an optimiser step"),
    ("metrics_missing", "==", 0, "metrics", "D3", "losses, KL, ratio, parity in every update"),
    ("non_finite", "==", 0, "values", "D3", "all of them finite"),
    ("parity_max_abs", "<=", 1e-3, "nats", "E1", "replayed = recorded log-prob, worst decision"),
    ("parity_mean_abs", "<=", 1e-4, "nats", "E1", "replayed = recorded log-prob, mean"),
    ("ratio_first_max_abs", "<=", 1e-3, "1", "E1", "|ratio - 1| before the first optimiser step"),
    ("clip_first_fraction", "==", 0, "share", "E1", "clipped before the first optimiser step"),
    ("kl_first", "<=", 1e-6, "nats", "E1", "KL before the first optimiser step"),
    ("trained_unchanged", "==", 0, "tensors", "D3", "every trained tensor changed"),
    ("frozen_changed", "==", 0, "tensors", "D3", "every frozen tensor is bit-identical"),
    ("episodes", ">=", 2, "episodes", "D5", "episodes ran in the simulator"),
    ("wrong_env", "==", 0, "episodes", "D5", "episodes are of the profile's suite and tasks"),
    ("heldout_states_used", "==", 0, "episodes", "B4", "training never saw a held-out state"),
    ("success_count_gap", "==", 0, "episodes", "H3", "metric counts equal the episode records"),
    ("video_shown", IS_TRUE, True, "", "D5", "video decodes and is not blank"),
    ("stage_times_missing", "==", 0, "stages", "D7", "time per stage is recorded"),
)

_RESUME: tuple[_Row, ...] = (
    ("not_killed", "==", 0, "", "F3", "learner killed by SIGKILL during later work"),
    ("same_process", "==", 0, "", "F2", "the resume ran in a new process"),
    ("deadline_missed", "==", 0, "", "F2", "the resume kept its deadline"),
    ("checks_disabled", "==", 0, "checks", "G4", "no safety check was turned off"),
    ("loaded_differs", "==", 0, "parts", "F2", "loaded state = saved state, part by part"),
    ("final_differs", "==", 0, "parts", "F3", "resumed = uninterrupted, bit for bit"),
    ("weights_moved", IS_TRUE, True, "", "F3", "weights changed after the checkpoint"),
    ("updates_missing", "==", 0, "updates", "F3", "every update is in both runs"),
    ("metrics_compared", ">=", 10, "values", "F3", "metric values compared"),
    ("metrics_differ", "==", 0, "values", "F3", "metric values equal bit for bit"),
    ("manifest_differs", "==", 0, "files", "F1", "manifest lists every file, size, SHA-256"),
    ("damaged_accepted", "==", 0, "cases", "F4", "damaged checkpoints refused, part named"),
    ("interrupted_saves_lost", "==", 0, "kills", "F1", "killed while saving: earlier one loads"),
    ("stock_keys_differ", "==", 0, "keys", "F5", "stock LeRobot loads it with strict keys"),
    ("stock_actions_max_abs", "<=", 0, "action", "F5", "stock LeRobot acts identically"),
    ("stock_actions_spread", ">=", 1e-6, "action", "F5", "the compared actions are not constant"),
)

_MISMATCH: tuple[_Row, ...] = (
    ("control_accepted", IS_TRUE, True, "", "G1", "an identical pair is accepted first"),
    ("classes_missing", "==", 0, "classes", "G2", "a case for every class of mismatch"),
    ("directions_missing", "==", 0, "directions", "G2", "learner, actor and checkpoint side"),
    ("wrong_exit_code", "==", 0, "cases", "G3", "refused with exit code 5 or 2"),
    ("late", "==", 0, "cases", "G3", "refused within the deadline"),
    ("unnamed", "==", 0, "cases", "G3", "field named with both values"),
    ("accepted_transitions", "==", 0, "transitions", "G3", "nothing accepted"),
    ("optimiser_steps", "==", 0, "steps", "G3", "no optimiser step taken"),
    ("unhealthy_learners", "==", 0, "cases", "G3", "learner serves a valid actor afterwards"),
    ("checks_disabled", "==", 0, "cases", "G4", "no safety check was turned off"),
    ("teeth_missing", "==", 0, "checks", "G4", "checks were disabled on purpose"),
    ("toothless", "==", 0, "checks", "G4", "with a check disabled the case is judged failed"),
)
# fmt: on

_CUDA_FP32 = {
    # Batch-size dependent kernels move the final action by up to 3.3e-5; at 5 mm last-step std
    # that is about 0.04 nats (algorithm.md 14.3).
    "smoke/parity_max_abs": 0.1,
    "smoke/parity_mean_abs": 0.02,
    "smoke/ratio_first_max_abs": 0.01,
    "smoke/kl_first": 1e-4,
}


def _criteria(group: str, module: str, rows: tuple[_Row, ...]) -> tuple[Criterion, ...]:
    made: list[Criterion] = []
    for leaf, comparator, threshold, unit, source, description in rows:
        name = f"{group}/{leaf}"
        cuda = (("cuda/float32", _CUDA_FP32[name]),) if name in _CUDA_FP32 else ()
        made.append(
            Criterion(
                name=name,
                module=module,
                comparator=comparator,
                threshold=threshold,
                unit=unit,
                source=source,
                description=description,
                other_numerics=cuda,
            )
        )
    return tuple(made)


CRITERIA = (
    *_criteria("validate", "measure_validate", _VALIDATE),
    *_criteria("smoke", "measure_link", _LINK),
    *_criteria("smoke", "measure_learning", _LEARNING),
    *_criteria("resume", "measure_resume", _RESUME),
    *_criteria("mismatch", "measure_mismatch", _MISMATCH),
)
"""Every criterion of the gate, in the order of the report."""


def criteria_of(step: str) -> tuple[Criterion, ...]:
    """The criteria of one step."""
    return tuple(criterion for criterion in CRITERIA if criterion.step == step)


_ALWAYS_UNTESTED: tuple[str, ...] = (
    "Task performance and improvement by training: no comparison of success rates is made.",
    "Long runs: memory growth, disk exhaustion, hours of uptime.",
    "Several machines: packet loss, partitions, TLS between hosts; everything ran over loopback.",
    "`async` mode with stale data.",
    "Real robots.",
    "Mismatch of processor statistics: files of the starting checkpoint, known to the hash by its path.",
    "Pictures and video are illustrations: their bytes are fixed, not recomputed.",
    "The bundle is not signed: who can rewrite every raw record can forge it. Compare its digest "
    "with the one that the tracker or the reviewer noted when the gate ended.",
)


def limits(*, profile: str, variant: str, numerics: str) -> tuple[str, ...]:
    """What a gate with these settings did not test."""
    found = list(_ALWAYS_UNTESTED)
    if profile != "libero":
        found.insert(0, "LIBERO: this is the embedded fallback, no LIBERO episode ran.")
    if not numerics.startswith("cuda"):
        found.append("GPU numerics: everything ran on the CPU.")
    found.append(f"Any variant other than {variant}.")
    return tuple(found)


def policy_document() -> dict[str, Any]:
    """The policy as plain values: what `policy.json` holds."""
    return {
        "gate": GATE,
        "policy_version": POLICY_VERSION,
        "claim": CLAIM,
        "non_claim": NON_CLAIM,
        "pass_rule": PASS_RULE,
        "success_definition": SUCCESS_DEFINITION,
        "default_numerics": DEFAULT_NUMERICS,
        "steps": list(STEPS),
        "criteria": [asdict(c) | {"recompute": c.recompute} for c in CRITERIA],
        "untested": list(_ALWAYS_UNTESTED),
    }


@cache
def policy_text() -> str:
    """`policy_document` as the exact text of `policy.json`."""
    return json.dumps(policy_document(), indent=1, sort_keys=True, allow_nan=False) + "\n"


def policy_digest() -> str:
    """SHA-256 of `policy_text`, hex."""
    return hashlib.sha256(policy_text().encode("utf-8")).hexdigest()


def render_markdown() -> str:
    """The table of criteria in `docs/evidence.md`."""
    lines: list[str] = []
    for step in STEPS:
        lines += [
            "",
            f"### {step}",
            "",
            "| criterion | required | row | what |",
            "|---|---|---|---|",
        ]
        for c in criteria_of(step):
            threshold = "yes" if c.comparator == IS_TRUE else f"{c.comparator} {c.threshold:g}"
            required = f"{threshold} {c.unit}".strip()
            lines.append(f"| `{c.name}` | {required} | {c.source} | {c.description} |")
    return "\n".join(lines).replace("|ratio - 1|", "abs(ratio - 1)") + "\n"
