"""A forger who writes everything else again: what he changes in a record is refused, or a reader is shown it.

The exceptions are written down: fields that are kept for a reader, and that no criterion, check or report uses. A
new field that nothing uses, and one that nothing uses any more, both fail here. Metric rows, logs and seals have
tests of their own.
"""

from __future__ import annotations

import json
from functools import cache, reduce
from operator import getitem

import pytest
from bundle_builder import Story, build_bundle
from tampering import leaves

from pirl.audit.derive import derived_texts, read_metadata
from pirl.audit.judge import judge_gate
from pirl.audit.logs import disagreements
from pirl.audit.outcomes import played
from pirl.audit.raw import RawRecords
from pirl.audit.records.files import FILES, METRIC_FILES, SEALS
from pirl.audit.records.metadata import Run
from pirl.audit.verify_agreement import agreement
from pirl.audit.verify_checks import record_problem
from pirl.errors import EvidenceError
from pirl.journal.codec import dump_json, dump_line

RECORDS = [f for f in FILES if f.kind is not str and f not in (*METRIC_FILES, *SEALS.values())]

KEPT_FOR_A_READER = {
    "validate-config/invalid.jsonl": {"objections.value"},
    "validate-config/inputs.json": {"environment.assets.source"},
    "validate-config/contract.jsonl": {"asks", "detail"},
    # Of an actor's name only that no other has it; here is one.
    "smoke-run/handshake-{rank}.json": {"actor_id"},
    "smoke-run/rewarded-handshake.json": {"actor_id"},
    # Of what was looked for only that it was something.
    "smoke-run/leftovers.json": {"looked_for.ports", "looked_for.shared_memory"},
    # A check that was turned off is judged by its exit code and by the hooks that the process names.
    "mismatch-negative/teeth.jsonl": {"case.direction", "case.probe"},
}  # fmt: skip
"""By file."""


def others(value, elsewhere):
    """Values that may stand there: near, far, a refusal's exit code, and what the field holds elsewhere."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [type(value)(other) for other in (value - 1, 10**6, -(10**6), 5)]
    if isinstance(value, str):
        return [value + "x", "", elsewhere]
    return [7, "x", 1.5] if value is None else [["x"], {"x": "y"}]


class Forgery(RawRecords):
    """The records of a bundle, read once; a test puts another text in the place of one."""

    def once(self):
        return self

    def shown(self):
        """Whatever a reader is shown that follows from the records."""
        run = read_metadata(self.root, "run", Run)
        verdict = judge_gate(self)
        return verdict, played(self), derived_texts(self, verdict, run)


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    """The records of a profile, and what a reader is shown of them."""

    @cache
    def of(profile):
        built = build_bundle(tmp_path_factory.mktemp(profile), Story(profile=profile))
        raw = Forgery(built.folder, {})
        return raw, raw.shown()

    return of


def is_seen(raw, shown, file, change):
    """Whether the verifier refuses the text, or a reader is shown something else."""
    leaf = file.of(0)
    name = f"raw/{file.step}/{leaf}"
    before, raw._read[name] = raw._read[name], change
    try:
        return bool(
            raw.shown() != shown
            or record_problem(raw, file.step, leaf)
            or agreement(raw)
            or list(disagreements(raw))
        )
    except EvidenceError:
        return True
    finally:
        raw._read[name] = before


def changes(text, is_lines):
    """(name of a field, text in which its first or its last value is another one)."""
    dump = dump_line if is_lines else dump_json
    records = [json.loads(part) for part in (text.splitlines() if is_lines else [text])]
    places = {}
    for record in records:
        for *above, key in leaves(record):
            name = ".".join(part for part in (*above, key) if isinstance(part, str))
            places.setdefault(name, []).append((reduce(getitem, above, record), key))
    for name, found in places.items():
        (first, a), (last, b) = found[0], found[-1]
        for node, key, elsewhere in ((first, a, last[b]), (last, b, first[a])):
            old = node[key]
            for node[key] in others(old, elsewhere):
                yield name, "".join(map(dump, records))
            node[key] = old


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: f"{file.step}-{file.name}")
def test_a_change_of_any_field_that_is_used_is_refused_or_told(forged, file):
    raw, shown = forged(file.profile or "embedded")
    seen, unseen = set(), set()
    for name, change in changes(raw.text(file, 0), file.is_lines):
        if name not in seen:
            (seen if is_seen(raw, shown, file, change) else unseen).add(name)
    assert unseen - seen == KEPT_FOR_A_READER.get(f"{file.step}/{file.name}", set())
