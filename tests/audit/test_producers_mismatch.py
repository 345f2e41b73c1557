"""Every criterion of mismatch-negative fails when a real step meets what the criterion guards against.

`mismatch_step.run` and everything that fills a record is the real code; forked processes, the link and the books
that a learner leaves are replaced.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from pirl.audit.criteria.mismatch import CLASSES
from pirl.audit.criterion import Verdict
from pirl.audit.judge import judge_criterion
from pirl.audit.policy import CRITERIA
from pirl.audit.records import files
from pirl.errors import FieldMismatch, MismatchError
from pirl.gate import mismatch_cases, mismatch_run, mismatch_step
from pirl.gate.mismatch_run import WrongPeer
from pirl.hooks import VARIABLE
from pirl.runtime import procs
from pirl.runtime.layout import RunFolder

BY_NAME = {criterion.name: criterion for criterion in CRITERIA}
NOTICED_BY = {"missing-metadata": "learner-to-actor"}
CHECKPOINTS = (
    "checkpoint-identity",
    "checkpoint-manifest",
    "resume-other-variant",
    "package-version",
)


class Process:
    """A forked process that has ended with `code`, or never does."""

    role = "peer"

    def __init__(self, code, log_path=None) -> None:
        self.code, self.log_path = code, log_path

    def poll(self):
        return self.code

    def kill(self) -> None:
        pass

    def terminate(self) -> None:
        self.code = 0

    def last_words(self):
        return ""


class World:
    """What peers and learners do; a test changes any of it."""

    def __init__(self, work) -> None:
        self.work = work
        self.wrong = [c.name for c in CLASSES if c.needs_process and c.name not in CHECKPOINTS]
        self.clients = [
            c.name for c in CLASSES if not c.needs_process and c.name != "package-version"
        ]
        self.checkpoints = list(CHECKPOINTS)
        self.codes: dict[str, int | None] = {}
        self.says = "mismatch\n  {field}: actor = 'a', learner = 'b'\n"
        self.refusal_s = 1.0
        self.pair_code = 0
        self.pair_books = {"counters": {"received": 12}, "books": {"optimiser_steps": 2}}
        self.host_books = {
            "identity": {"run_id": "host"}, "counters": {"received": 0},
            "books": {"optimiser_steps": 0}, "hooks": [],
        }  # fmt: skip
        self.tooth_hooks = {"handshake": ["handshake"], "manifest": ["manifest"]}
        self.tooth_code = 0
        self.valid_run_id: str | None = "host"
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def field_of(name: str) -> str:
    row = next(c for c in CLASSES if c.name == name)
    return row.fields[0] if row.fields else "config_hash"


@pytest.fixture
def step(monkeypatch, tmp_path, writer_of):
    """Runs the real step after `spoil` changed what it meets."""
    world = World(tmp_path)
    writer = writer_of(files.MISMATCH)
    monkeypatch.setattr(type(writer), "now", lambda _: world.now)
    for module in (procs, mismatch_run):
        monkeypatch.setattr(module, "time", world)

    def start(module, argv, *, env, log_path):
        name = log_path.stem
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log_path.write_text(world.says.format(field=field_of(argv[0])) if argv else "")
        world.now += world.refusal_s
        teeth = name.endswith("-teeth")
        return Process(world.tooth_code if teeth else world.codes.get(argv[0], 5), log_path)

    def start_learner(_gate, _group, *, name, env, **_):
        folder = RunFolder(tmp_path / name)
        folder.run_record.parent.mkdir(parents=True)
        hooks = world.tooth_hooks["handshake"] if name == "toothless" else []
        books = world.host_books if name == "host" else world.pair_books | {"hooks": hooks}
        folder.run_record.write_text(json.dumps(books))
        (tmp_path / "logs" / "mismatch").mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(process=Process(None), folder=folder, port=1, identity="ours")

    def meet(_gate, _host, identity, **_):
        world.now += 0.5
        if identity == "ours":
            return world.valid_run_id or refuse()
        raise MismatchError("here", [FieldMismatch(field=field_of(identity), ours=1, theirs=2)])

    def refuse():
        raise MismatchError("here", [])

    def tampered(_gate, name):
        folder = tmp_path / "tampered" / name / "checkpoints" / "1"
        record = RunFolder(tmp_path / "tampered" / name).run_record
        if name == "checkpoint-manifest" and world.teeth:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps({"hooks": world.tooth_hooks["manifest"]}))
        return folder

    world.teeth = False
    codes = iter([lambda: world.pair_code, lambda: world.tooth_code])
    fakes = {
        mismatch_run: {
            "start_learner": start_learner, "meet": meet, "_end_of_pair": lambda *_: next(codes)(),
            "ForkedGroup": lambda: nullcontext(SimpleNamespace(start=start)),
        },
        mismatch_cases: {"meet": meet},
        mismatch_step: {
            "start_learner": start_learner, "tampered": tampered,
            "ForkedGroup": lambda: nullcontext(SimpleNamespace(start=start)),
            "process_cases": lambda *_: [
                WrongPeer(name=n, argv=("m", n), direction=NOTICED_BY.get(n, "actor-to-learner"))
                for n in world.wrong
            ],
            "client_cases": lambda gate, step, host: [
                mismatch_cases._client_case(gate, step, host, n, n) for n in world.clients
            ],
            "checkpoint_cases": lambda _: [
                WrongPeer(name=n, argv=("m", n), direction="checkpoint", run_dir=tmp_path / n)
                for n in world.checkpoints
            ],
            "resuming": lambda name, step_dir, **options: setattr(world, "teeth", True) or WrongPeer(
                name=name, argv=("m", name), run_dir=tampered(None, name).parent.parent, **options
            ),
        },
    }  # fmt: skip
    for module, replaced in fakes.items():
        for name, fake in replaced.items():
            monkeypatch.setattr(module, name, fake)
    cfg = SimpleNamespace(
        runtime=SimpleNamespace(actors=0),
        pirl=SimpleNamespace(gamma=0.99),
        parallelism=SimpleNamespace(dp_replicate=1),
    )
    gate = SimpleNamespace(
        work=tmp_path, config_path="c", loaded=SimpleNamespace(cfg=cfg), allowed_s=lambda _: 60.0
    )

    def execute(spoil=lambda world, patch: None):
        spoil(world, monkeypatch)
        mismatch_step.run(gate, writer)

    return execute


def set_to(**changes):
    return lambda world, _: [setattr(world, name, value) for name, value in changes.items()]


def no_actor_notices(world, patch):
    patch.setitem(NOTICED_BY, "missing-metadata", "actor-to-learner")


def a_learner_trains_from_a_tampered_checkpoint(world, _):
    folder = RunFolder(world.work / "checkpoint-identity")
    folder.run_record.parent.mkdir(parents=True)
    books = {"counters": {"received": 0}, "books": {"optimiser_steps": 3}}
    folder.run_record.write_text(json.dumps(books))


SPOILS = {
    "mismatch/control_accepted": set_to(pair_code=5),
    "mismatch/classes_missing": lambda world, _: world.clients.remove("cameras"),
    "mismatch/directions_missing": no_actor_notices,
    "mismatch/wrong_exit_code": lambda world, _: world.codes.update(token=1),
    "mismatch/late": set_to(refusal_s=61.0),
    "mismatch/unnamed": set_to(says="no\n"),
    "mismatch/accepted_transitions": lambda world, _: world.host_books["counters"].update(
        received=1
    ),
    "mismatch/optimiser_steps": a_learner_trains_from_a_tampered_checkpoint,
    "mismatch/unhealthy_learners": set_to(valid_run_id=None),
    "mismatch/checks_disabled": lambda _, patch: patch.setenv(VARIABLE, "parity"),
    "mismatch/teeth_missing": lambda world, _: world.tooth_hooks.update(manifest=[]),
    "mismatch/toothless": set_to(tooth_code=5),
}


def test_the_real_step_among_refusals_passes_everything(step, raw, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    step()
    for name in SPOILS:
        result = judge_criterion(BY_NAME[name], raw)
        assert result.verdict is Verdict.PASSED, result


@pytest.mark.parametrize("name", SPOILS)
def test_criterion_fails_when_the_step_meets_what_it_guards_against(step, raw, name):
    step(SPOILS[name])
    assert judge_criterion(BY_NAME[name], raw).verdict is Verdict.FAILED


def test_another_learner_that_answers_afterwards_is_not_the_host(step, raw):
    step(set_to(valid_run_id="another"))
    result = judge_criterion(BY_NAME["mismatch/unhealthy_learners"], raw)
    assert result.measured == len(raw.all(files.CASES))


def test_a_peer_that_outlives_its_deadline_has_no_exit_code(step, raw):
    step(lambda world, _: world.codes.update(token=None))
    case = next(c for c in raw.all(files.CASES) if c.name == "token")
    assert case.exit_code is None
    assert case.elapsed_s > case.deadline_s
    result = judge_criterion(BY_NAME["mismatch/wrong_exit_code"], raw)
    assert result.detail == "token: None"
