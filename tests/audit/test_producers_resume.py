"""Every criterion of resume-roundtrip fails when processes and files of a real step are what it guards against.

`resume_step.run` is the real one; processes, policy and stock LeRobot are replaced by what they would have done.
"""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from bundle_builder import KILLED, SAVED, TOTAL, Story, rows, sha, update_row
from fake_run import FakeRun, mark

from pirl.audit.criteria.resume import PARTS
from pirl.audit.criterion import Verdict
from pirl.audit.judge import judge_criterion
from pirl.audit.policy import CRITERIA
from pirl.audit.records import files
from pirl.checkpoint.manifest import verify_manifest, write_manifest
from pirl.config.recipe import PiRLConfig
from pirl.errors import CheckpointError, ExitCode
from pirl.gate import resume_step
from pirl.runtime.launch import LaunchResult
from pirl.runtime.layout import RunFolder

BY_NAME = {criterion.name: criterion for criterion in CRITERIA}
CHECKPOINT = (
    "pretrained_model/model.safetensors", "pretrained_model/train_config.json",
    "algorithm/model.safetensors", "training_state/rng_state.safetensors",
    "training_state/pi_rl/optimizer_state.safetensors",
)  # fmt: skip


class Forked:
    """A forked process as far as the step looks at it."""

    def __init__(self, pid: int, ends_with: int) -> None:
        self.process, self.ends_with, self.code = SimpleNamespace(pid=pid), ends_with, None

    def poll(self):
        return self.code

    def kill(self):
        self.code = self.ends_with

    def seconds(self):
        return 7.0


class World:
    """What happens while the step runs; a test changes any of it."""

    def __init__(self, work) -> None:
        self.work = work
        self.baseline = FakeRun(work / "smoke", Story())
        self.saved = {part: sha(part + "saved") for part in PARTS}
        self.loaded = dict(self.saved)
        self.resumed = {part: sha(part + "final") for part in PARTS}
        self.baseline.learner["digests_after"] = dict(self.resumed)
        self.baseline.metrics = {u: update_row(u) for u in range(1, TOTAL + 1)}
        self.interrupted_rows = {u: update_row(u) for u in range(1, KILLED + 1)}
        self.resumed_rows = {u: update_row(u) for u in range(SAVED + 1, TOTAL + 1)}
        self.killed_with, self.saver_killed_with = -9, -9
        self.marks = [mark("learner", 20), mark("learner", 30)]
        self.resume_s = 5.0
        self.resumed_exit_code = 0
        self.now = 0.0
        self.unlisted: tuple[str, ...] = ()
        self.loads_damage = False
        self.saves_are_sound = True
        self.stock_keys = ["a"]
        self.actions = {"pirl": [0.1, 0.5], "stock": [0.1, 0.5]}

    def checkpoint(self, folder):
        for name in CHECKPOINT:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"0123456789")
        write_manifest(folder)
        for name in self.unlisted:
            (folder / name).write_bytes(b"x")
        return folder

    def launch(self, *_, log_dir, **__):
        folder = RunFolder(self.work / resume_step.RUN)
        self.now += self.resume_s
        folder.learner_metrics.unlink()
        shutil.copy(
            rows(self.work, self.resumed_rows, self.resumed_rows.get), folder.learner_metrics
        )
        folder.run_record.write_text(
            json.dumps({"digests_loaded": self.loaded, "digests_after": self.resumed, "hooks": []})
        )
        folder.marks("learner").write_text("".join(json.dumps(m) + "\n" for m in self.marks))
        log_dir.mkdir(parents=True)
        (log_dir / "learner.log").write_text("ready")
        row = {
            "role": "learner",
            "pid": 30,
            "exit_code": self.resumed_exit_code,
            "seconds": 5.0,
            "argv": ["python", "-m"],
        }
        return LaunchResult(exit_code=ExitCode.OK, processes=[row], port=1)

    def start(self, module, argv, *, env, log_path):
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log_path.write_text("ready")
        if module.endswith("save_loop"):
            folder = self.checkpoint(self.work.joinpath(argv[1]) / "checkpoints" / "000001")
            if not self.saves_are_sound:
                (folder / CHECKPOINT[0]).write_bytes(b"torn")
            return Forked(40, self.saver_killed_with)
        folder = RunFolder(self.work / resume_step.RUN)
        folder.learner_metrics.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(
            rows(self.work, self.interrupted_rows, self.interrupted_rows.get),
            folder.learner_metrics,
        )
        self.checkpoint(folder.root / "checkpoints" / "000002")
        return Forked(20, self.killed_with)

    def load_checkpoint(self, folder, **_):
        if not self.loads_damage and (problems := verify_manifest(folder)):
            raise CheckpointError("refused", parts=[str(p) for p in problems])


@pytest.fixture
def step(monkeypatch, tmp_path, writer_of):
    """Runs the real step after `spoil` changed what happens."""
    world = World(tmp_path / "work")
    policy = SimpleNamespace(
        sampler="native", module=SimpleNamespace(state_dict=lambda: {"a": 1}), encode=lambda _: None,
        spec=SimpleNamespace(chunk_size=1, model_dim=1), postprocess=lambda chunk: chunk,
    )  # fmt: skip
    algorithm = SimpleNamespace(
        make_optimizers_and_scheduler=lambda: None, updates=0, noise_head=None
    )
    session = SimpleNamespace(
        policy=policy,
        algorithm=algorithm,
        schema=SimpleNamespace(state={"observation.state": None}),
    )
    runtime = SimpleNamespace(actors=0, host="127.0.0.1", total_updates=TOTAL)
    parallelism = SimpleNamespace(dp_replicate=1)
    cfg = SimpleNamespace(runtime=runtime, pirl=PiRLConfig(), parallelism=parallelism)
    stock = SimpleNamespace(state_dict=lambda: dict.fromkeys(world.stock_keys))
    fakes = {
        "launch": world.launch,
        "free_port": lambda _: 1,
        "wait_until": lambda *_, **__: None,
        "read_record": lambda _: {"step": SAVED, "digests": world.saved},
        "load_config": lambda _: SimpleNamespace(cfg=cfg),
        "build_session": lambda *_, **__: session,
        "load_checkpoint": world.load_checkpoint,
        "policy_of": lambda _: SimpleNamespace(type="xvla"),
        "policy_kind": lambda _: SimpleNamespace(
            load_stock=lambda _: stock,
            stock_generate=lambda *_: torch.tensor(world.actions["stock"]),
        ),
        "_fixed_observation": lambda *_: [0],
        "sample_chunk": lambda *_, **__: SimpleNamespace(chunk=torch.tensor(world.actions["pirl"])),
        "time": SimpleNamespace(monotonic=lambda: world.now, sleep=lambda _: None),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(resume_step, name, fake)
    forked = SimpleNamespace(
        ForkedGroup=lambda: nullcontext(SimpleNamespace(start=world.start)),
        exit_code=lambda process, _: process.poll(), wait=lambda process, _: process.poll(),
    )  # fmt: skip
    monkeypatch.setattr(resume_step, "forked", forked)
    gate = SimpleNamespace(
        work=world.work, config_path="c", loaded=SimpleNamespace(cfg=cfg), allowed_s=lambda _: 60.0
    )

    def execute(spoil=lambda world: None):
        spoil(world)
        world.baseline.write()
        resume_step.run(gate, writer_of(files.RESUME))

    return execute


def one_process_in_all_roles(world):
    world.marks = [mark("learner", 10), mark("learner", 30, nonce=mark("learner", 10)["nonce"])]


def few_metrics(world):
    for table in (world.baseline.metrics, world.interrupted_rows, world.resumed_rows):
        for update in table:
            table[update] = {"time/update_s": 1.0}


def weights_stay(world):
    world.resumed = world.saved
    world.baseline.learner["digests_after"] = world.saved


def unlisted_file(world):
    world.unlisted, world.loads_damage = ("algorithm/more.bin",), True


SPOILS = {
    "resume/not_killed": lambda w: setattr(w, "killed_with", 0),
    "resume/same_process": one_process_in_all_roles,
    "resume/exit_codes_nonzero": lambda w: setattr(w, "resumed_exit_code", 3),
    "resume/deadline_missed": lambda w: setattr(w, "resume_s", 61.0),
    "resume/checks_disabled": lambda w: w.marks[1].update(hooks=["resume-optimizer"]),
    "resume/loaded_differs": lambda w: w.loaded.update(optimizer="x"),
    "resume/final_differs": lambda w: w.resumed.update(rng="x"),
    "resume/weights_moved": weights_stay,
    "resume/updates_missing": lambda w: w.resumed_rows.pop(TOTAL),
    "resume/metrics_compared": few_metrics,
    "resume/metrics_differ": lambda w: w.resumed_rows[TOTAL].update({"update/policy_loss": 9.0}),
    "resume/manifest_differs": unlisted_file,
    "resume/damaged_accepted": lambda w: setattr(w, "loads_damage", True),
    "resume/interrupted_saves_lost": lambda w: setattr(w, "saves_are_sound", False),
    "resume/stock_keys_differ": lambda w: setattr(w, "stock_keys", ["b"]),
    "resume/stock_actions_max_abs": lambda w: w.actions.update(stock=[0.1, 0.6]),
    "resume/stock_actions_spread": lambda w: w.actions.update(pirl=[1.0, 1.0], stock=[1.0, 1.0]),
}


def learners_are_of_one_smoke_run(raw):
    """The good bundle's smoke run is another one than the world's."""
    path = raw.root / "raw" / files.SMOKE / "processes.jsonl"
    path.write_text(path.read_text().replace(sha("process 0")[:32], sha("process 10")[:32]))


def test_the_real_step_on_a_perfect_run_passes_everything(step, raw):
    learners_are_of_one_smoke_run(raw)
    step()
    for name in SPOILS:
        result = judge_criterion(BY_NAME[name], raw)
        assert result.verdict is Verdict.PASSED, result


@pytest.mark.parametrize("name", SPOILS)
def test_criterion_fails_when_the_step_meets_what_it_guards_against(step, raw, name):
    learners_are_of_one_smoke_run(raw)
    step(SPOILS[name])
    assert judge_criterion(BY_NAME[name], raw).verdict is Verdict.FAILED


def test_the_uninterrupted_learner_is_the_one_of_the_smoke_run(step, raw):
    step()
    assert judge_criterion(BY_NAME["resume/same_process"], raw).verdict is Verdict.FAILED


def test_exit_code_and_seconds_of_the_uninterrupted_learner_are_those_of_its_launch(step, raw):
    def spoil(world):
        world.baseline.table[0] |= {"exit_code": 3, "seconds": 12.5}

    step(spoil)
    first = raw.all(files.PROCESSES[files.RESUME])[0]
    assert (first.role, first.exit_code, first.seconds) == ("learner-uninterrupted", 3, 12.5)


def test_a_saver_that_was_not_killed_shows_nothing(step, raw):
    step(lambda world: setattr(world, "saver_killed_with", 0))
    name = "resume/interrupted_saves_lost"
    assert judge_criterion(BY_NAME[name], raw).verdict is Verdict.FAILED
