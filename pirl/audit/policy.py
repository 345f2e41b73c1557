"""The policy of the phase-2 gate, fixed in code: claim, limits, and every criterion with its threshold.

Owns the text whose digest a bundle carries. A bundle cannot loosen a threshold: the verifier reads
this module and never the bundle's copy. Change anything here and raise `POLICY_VERSION`. Read
`pirl.audit.judge` next.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

from pirl.audit.criteria import learning, link, mismatch, resume, validate
from pirl.audit.criterion import DEFAULT_NUMERICS, Criterion
from pirl.audit.outcomes import SUCCESS_DEFINITION
from pirl.audit.records.files import OWN, STEPS
from pirl.journal.codec import dump_json

GATE = "phase2-gate"
POLICY_VERSION = "4"

CLAIM = (
    "On this code and config the learner and its actors train together, checkpoint, resume exactly "
    "and refuse peers that do not match."
)

NON_CLAIM = (
    "A success figure of a smoke run is not a performance claim: it shows that episodes ran, not "
    "that the policy is good or that training improves it."
)

PASS_RULE = "passed only if every criterion of every step passed; nothing missing counts as passed"

CRITERIA: tuple[Criterion, ...] = tuple(
    criterion
    for module in (validate, link, learning, resume, mismatch)
    for criterion in module.criterion.criteria
)
"""Every criterion of the gate, in the order of the report."""


def criteria_of(step: str, profile: str | None = None) -> tuple[Criterion, ...]:
    """The criteria of one step, or those of them that are asked of a profile."""
    return tuple(
        criterion
        for criterion in CRITERIA
        if criterion.step == step and (profile is None or criterion.profile in (None, profile))
    )


_ALWAYS_UNTESTED: tuple[str, ...] = (
    "Task performance and improvement by training: no comparison of success rates is made.",
    "Long runs: memory growth, disk exhaustion, hours of uptime.",
    "Several machines: packet loss, partitions, TLS between hosts; everything ran over loopback.",
    "`async` mode with stale data.",
    "Real robots.",
    "Mismatch of processor statistics: files of the starting checkpoint, known to the hash by its path.",
    "Pictures and video are illustrations: their bytes are fixed, not recomputed.",
    "Who can rewrite every raw record can forge a bundle that is not signed. Compare its digest with "
    "the one that the tracker or the reviewer noted when the gate ended, or check its signature.",
)

_UNTESTED_OF = {
    "libero": "Rewards on the suite itself: it starts from random weights; the rewarded run is of another suite.",
    "embedded": "LIBERO: this is the embedded fallback, no LIBERO episode ran.",
    OWN: "The profiles of pirl, LIBERO's among them: this gate ran a config of one's own.",
}
"""By profile."""


def limits(*, profile: str, numerics: str) -> tuple[str, ...]:
    """What a gate with these settings did not test."""
    found = list(_ALWAYS_UNTESTED)
    found.insert(0, _UNTESTED_OF.get(profile, _UNTESTED_OF["embedded"]))
    if not numerics.startswith("cuda"):
        found.append("GPU numerics: everything ran on the CPU.")
    found.append("Any other variant than that of this run.")
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
        "criteria": [c.to_json() for c in CRITERIA],
        "untested": list(_ALWAYS_UNTESTED),
    }


@cache
def policy_text() -> str:
    """`policy_document` as the exact text of `policy.json`."""
    return dump_json(policy_document())


def policy_digest() -> str:
    """SHA-256 of `policy_text`, hex."""
    return hashlib.sha256(policy_text().encode("utf-8")).hexdigest()
