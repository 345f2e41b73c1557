"""A synthetic bundle: the records of a perfect gate, filled in by hand.

It shows what the verifier makes of records; what the producers make of processes is in `test_producers_*.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pirl.audit import logs
from pirl.audit.bundle import BundleWriter, FinishedBundle, StepWriter
from pirl.audit.criteria.learning import MUST_BE_FINITE, REWARDED_ENV, REWARDED_TASK
from pirl.audit.criteria.mismatch import CLASSES, TEETH
from pirl.audit.criteria.resume import DAMAGE_CASES, PARTS, SAVE_KILLS
from pirl.audit.criteria.validate import (
    CLAUSES,
    PACKAGE_OF,
    REFUSED_CASES,
    STD_STEPS,
    VERSIONS,
    advantages,
    flow_sde_std,
    gaussian_log_prob,
)
from pirl.audit.derive import read_metadata
from pirl.audit.outcomes import CANNOT_RUN, OWN_CONFIG, STOPPING_RULE, SUCCESS_DEFINITION
from pirl.audit.records import common, files, mismatch, resume, smoke, validate
from pirl.audit.records.metadata import Run, Source
from pirl.audit.redact import Redactor
from pirl.config.rules import rule_outcomes
from pirl.journal.environment import collect_environment
from pirl.journal.media import Clip, write_video

REPO = Path(__file__).parents[2]
UPDATES, SAVED, KILLED = 5, 2, 3
TOTAL = UPDATES
PER_UPDATE = 8
TASKS = {
    "libero": ("libero_10", ("put both moka pots on the stove", "turn on the stove")),
    "embedded": ("button-press-topdown-v3", ("button-press-topdown-v3",)),
    "own": ("reach-red", ("reach-red", "reach-blue")),
}
ENV_TYPE = {"libero": "libero", "embedded": "pirl_metaworld", "own": "pointreach"}
REASON = {"libero": "", "embedded": f"{CANNOT_RUN}its assets are not here", "own": OWN_CONFIG}
ROLES = ("learner", "actor-0")
MODULES = dict(zip(ROLES, ("pirl.learner", "pirl.actor"), strict=True))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


KNOBS = {
    "flow-sde": {"noise_level": 0.5},
    "flow-noise": {"noise_head_hidden": (128, 64)},
}


@dataclass
class Story:
    """What happened; a test changes one field to tell another story."""

    profile: str = "embedded"
    env_type: str = ""
    """Another one than the profile's."""
    variant: str = "flow-sde"
    task: str = ""
    """Another name of the first task."""
    secrets: tuple[str, ...] = ()
    extra_log: str = ""
    skip_steps: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    sign_with: Path | None = None

    def __post_init__(self) -> None:
        self.env_type = self.env_type or ENV_TYPE[self.profile]

    @property
    def suite(self) -> str:
        return TASKS[self.profile][0]

    @property
    def tasks(self) -> tuple[str, ...]:
        first, *rest = TASKS[self.profile][1]
        return (self.task or first, *rest)

    @property
    def canonical(self) -> str:
        config = {
            "env": {"type": self.env_type, "task": self.suite, "episode_length": 95},
            "parallelism": {"dp_replicate": 1},
            "pirl": {"variant": self.variant, self.variant.replace("-", "_"): KNOBS[self.variant]},
            "policy": {},
            "recipe": "pi-rl",
            "runtime": {
                "actors": 1,
                "mode": "sync",
                "rollout_chunks": 36,
                "split": "train",
                "torch_threads": 1,
                "total_updates": UPDATES,
            },
            "seed": 7,
        }
        return json.dumps(config, sort_keys=True, separators=(",", ":"))

    @property
    def config_hash(self) -> str:
        return sha(self.canonical)

    @property
    def identity(self) -> dict[str, str | int]:
        return {
            "protocol_version": 1, "recipe": "pi-rl", "variant": self.variant,
            "config_path": "configs/train_config_pirl_smoke.json", "config_hash": self.config_hash,
            "run_id": "run-0001", "environment": f"{self.env_type}/{self.suite}, limit 95",
            "policy_type": "xvla", "policy_architecture": sha("architecture"), "action_mode": "auto",
            "denoising_steps": 2, "executed_steps": 4, "control_mode": "relative", "cameras": "image of 1 views",
            "policy_settings": "domain_id=0", "reward": "success", "state_split": "train of ab",
            "noise_settings": "noise_level=0.5",
        }  # fmt: skip


class RewardedStory(Story):
    """The second smoke run of the LIBERO profile."""

    suite = "libero_goal"
    tasks = (REWARDED_TASK,)

    @property
    def identity(self) -> dict[str, str | int]:
        return super().identity | {"run_id": "run-0002", "environment": f"{REWARDED_ENV}, limit 60"}


def successes(update: int) -> int:
    return min(PER_UPDATE, 2 + update)


def env_steps(update: int) -> int:
    return 80 * successes(update) + 95 * (PER_UPDATE - successes(update))


def decisions(update: int) -> int:
    return 4 * successes(update) + 5 * (PER_UPDATE - successes(update))


def actor_row(update: int) -> dict[str, float]:
    """Of the rollout that the update uses."""
    return {
        "rollout/episodes": float(PER_UPDATE),
        "rollout/successes": float(successes(update)),
        "rollout/env_steps": float(env_steps(update)),
        "time/env_step_s": 1.1,
        "time/infer_s": 0.6,
        "time/wait_s": 2.0,
    }


def update_row(update: int) -> dict[str, float]:
    row = dict.fromkeys(MUST_BE_FINITE, 0.0)
    row |= {
        "update/policy_loss": -0.02 / update + 0.013 * math.sin(2.1 * update),
        "update/value_loss": 0.3 / update,
        "update/approx_kl": 0.011,
        "update/ratio_max": 1.3,
        "update/ratio_min": 0.8,
        "update/grad_norm_actor": 0.7,
        "update/optimiser_steps": 8.0,
        "rollout/successes": float(successes(update)),
        "rollout/episodes": float(PER_UPDATE),
        "time/update_s": 1.9 + 0.1 * update,
    }
    won, steps = int(row["rollout/successes"]), env_steps(update)
    row |= {
        "rollout/success_rate": won / PER_UPDATE,
        "rollout/env_steps": float(steps),
        "rollout/mean_env_steps": steps / PER_UPDATE,
        "rollout/mean_decisions": decisions(update) / PER_UPDATE,
        "rollout/mean_return": won / PER_UPDATE,
        "version/current": float(update),
        "counters/received": float(sum(map(decisions, range(1, update + 1)))),
        "counters/consumed": float(sum(map(decisions, range(1, update + 1)))),
        "link/bytes_received": 9000.0 * sum(map(decisions, range(1, update + 1))),
    }
    bins = (0, 0, 7, 41 + update, 52 - update, 6, 2, 0)
    return row | {f"update/ratio_bin_{index}": float(count) for index, count in enumerate(bins)}


def rows(folder: Path, updates, metrics=update_row, *, lag: int = 0) -> Path:
    """A file as `MetricLog` writes it; an actor's versions lag behind its rollouts' numbers."""
    lines = [
        {"format": 1, "step": u, "version": u - lag, "elapsed_s": 5.0 * u, "metrics": metrics(u)}
        for u in updates
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return path


def episodes(story: Story) -> list[smoke.Episode]:
    found: list[smoke.Episode] = []
    for update in range(1, UPDATES + 1):
        for slot in range(PER_UPDATE):
            won = slot < int(update_row(update)["rollout/successes"])
            found.append(
                smoke.Episode(
                    episode_id=len(found),
                    task_id=slot % len(story.tasks),
                    task=story.tasks[slot % len(story.tasks)],
                    init_state_id=slot,
                    seed=1000 * update + slot,
                    policy_version=update - 1,
                    env_steps=80 if won else 95,
                    decisions=4 if won else 5,
                    reward=float(won),
                    end="success" if won else "timeout",
                    update=update,
                )
            )
    return found


def process(role: str, number: int, exit_code: int = 0) -> common.Process:
    return common.Process(
        role=role, nonce=sha(f"process {number}")[:32], started_s=0.1 * number, seconds=1.0,
        exit_code=exit_code, hooks=(),
    )  # fmt: skip


def validate_step(writer: BundleWriter, story: Story) -> None:
    with begin(writer, files.VALIDATE, story) as step:
        step.write(files.CONFIG, validate.Config(
            path=str(story.identity["config_path"]), hash=story.config_hash, recipe="pi-rl",
            variant=story.variant, hooks=(),
        ))  # fmt: skip
        step.write(files.PROFILE, validate.Profile(
            profile=story.profile, reason=REASON[story.profile], env_type=story.env_type, suite=story.suite
        ))  # fmt: skip
        step.write_all(
            files.RULES,
            [
                validate.Rule(rule=outcome.rule, errors=())
                for outcome in rule_outcomes(json.loads(story.canonical))
            ],
        )
        said = validate.Objection(
            field_name="pirl.variant", value="'x'", expected="a variant", fix="set it"
        )
        step.write_all(files.INVALID, [
            validate.InvalidConfig(case=c, exit_code=2, objections=(said,)) for c in REFUSED_CASES
        ])  # fmt: skip
        step.write_all(files.CONTRACT, [
            validate.Clause(clause=name, status="kept", asks="it", detail="ok") for name in CLAUSES
        ])  # fmt: skip
        machine = collect_environment()
        versions = {"python": machine["python"], **machine["packages"]}
        step.write_all(
            files.PACKAGES, [validate.Package(package=p, version=versions[p]) for p in VERSIONS]
        )
        step.write(files.FIRST_LOOK, validate.FirstLook(
            task=story.tasks[0], init_state_id=0, env_steps=20, frame_std=41.5
        ))  # fmt: skip
        step.write(files.SETTINGS, validate.Settings(
            seed=7, total_updates=UPDATES, rollout_chunks=36, actors=1, mode="sync", split="train",
            chunk_size=4, executed_steps=4, denoising_steps=2, noise=KNOBS[story.variant],
            action_mode="auto", control_mode="relative", episode_length=95, numerics="cpu/float32",
            torch_threads=1, success_definition=SUCCESS_DEFINITION, stopping_rule=STOPPING_RULE,
            parameters=validate.Parameters(total=255000, trained=90000, sent=90000),
        ))  # fmt: skip
        sides = validate.Sides(train=tuple(range(40)), heldout=tuple(range(40, 50)))
        tasks = story.tasks + ((REWARDED_TASK,) if story.profile == files.REWARDED else ())
        step.write(files.SPLIT, validate.Split(mode="train", tasks=dict.fromkeys(tasks, sides)))
        offered = "pirl-pointreach"
        simulator, package = PACKAGE_OF.get(story.env_type, (story.env_type, offered))
        version = f"{offered} 0.1.0" if package == offered else versions[package]
        step.write(files.INPUTS, validate.Inputs(
            checkpoint=validate.StartingPoint(
                source="random weights", revision="none", licence="none", files={"a": sha("w")}
            ),
            environment=validate.Simulator(
                name=simulator, version=version, mujoco=versions["mujoco"], tasks=story.tasks,
                assets={"source": "wheels"}, initial_states={"split": sha("s")}, reset_mode="full",
            ),
        ))  # fmt: skip
        case = validate.GaussianCase(
            x=(0.1, -0.4) * 6, mean=(0.0, -0.3) * 6, std=(0.2, 0.5) * 6, log_prob=0.0
        )
        step.write_all(files.GAUSSIAN, [replace_field(case, log_prob=gaussian_log_prob(case))])
        gae = validate.GaeCase(
            gamma=0.99, gae_lambda=0.95, rewards=(0.0, 1.0), values=(0.1, 0.2),
            next_values=(0.2, 0.3), done=(False, True), truncated=(False, False), advantages=(),
        )  # fmt: skip
        step.write_all(files.GAE, [replace_field(gae, advantages=tuple(advantages(gae)))])
        stds = [validate.StdCase(denoising_steps=n, noise_level=0.5, std=()) for n in STD_STEPS]
        step.write_all(files.STD, [replace_field(s, std=tuple(flow_sde_std(s))) for s in stds])
        step.command(["pirl", "validate"], about="the config")


def replace_field(record, **changes):
    return type(record)(**{name: getattr(record, name) for name in record.__slots__} | changes)


def begin(writer: BundleWriter, step: str, story: Story):
    return writer.step(step, config_hash=story.config_hash, variant=story.variant)


def counters(story: Story) -> tuple[smoke.LearnerCounters, smoke.ActorCounters]:
    played = episodes(story)
    by_version: dict[str, int] = {}
    for episode in played:
        version = str(episode.policy_version)
        by_version[version] = by_version.get(version, 0) + episode.decisions
    sent = sum(by_version.values())
    learner = smoke.LearnerCounters(
        received=sent, consumed=sent, dropped={"stale": 0}, bytes_received=9000 * sent,
        episodes_received=len(played), published=tuple(range(UPDATES)),
    )  # fmt: skip
    actor = smoke.ActorCounters(
        sent=sent, bytes_sent=9000 * sent, episodes_sent=len(played), by_version=by_version,
        versions_received=tuple(range(UPDATES)),
    )  # fmt: skip
    return learner, actor


def smoke_step(writer: BundleWriter, story: Story, folder: Path, clip: Clip) -> None:
    learner, actor = counters(story)
    with begin(writer, files.SMOKE, story) as step:
        rewarded = files.REWARDED_ROLES if story.profile == files.REWARDED else ()
        table = [process(role, i) for i, role in enumerate((*ROLES, *rewarded))]
        step.write_all(files.PROCESSES[files.SMOKE], table)
        step.write(files.HANDSHAKE, smoke.Handshake(
            actor_id="0-ab", accepted=True, seconds=0.1, learner=story.identity,
            received=story.identity, actor=story.identity,
        ), rank=0)  # fmt: skip
        step.write(files.LEARNER_COUNTERS, learner)
        step.write(files.ACTOR_COUNTERS, actor, rank=0)
        step.exact(files.LEARNER_CONFIG, story.canonical)
        step.exact(files.ACTOR_CONFIG, story.canonical, rank=0)
        step.copy(files.LEARNER_METRICS, rows(folder, range(1, UPDATES + 1)))
        played = rows(folder, range(1, UPDATES + 1), actor_row, lag=1)
        step.copy(files.ACTOR_METRICS, played, rank=0)
        names = ("model.transformer.blocks.0.attn.weight", "model.transformer.pos_emb")
        step.write(files.TENSORS, smoke.TensorDigests(**{
            side: smoke.TensorGroups(
                trained={n: sha(n + side) for n in names}, frozen={"embed.weight": sha("frozen")}
            )
            for side in ("before", "after")
        }))  # fmt: skip
        looked = smoke.LookedFor(
            processes=tuple(row.role for row in table), ports=(4711,), shared_memory=("psm_*",)
        )
        step.write(files.LEFTOVERS, smoke.Leftovers(
            looked_for=looked, processes=story.leftovers, ports=(), shared_memory=()
        ))  # fmt: skip
        step.write_all(files.EPISODES, episodes(story))
        if rewarded:
            second = RewardedStory(profile=story.profile, variant=story.variant)
            said = second.identity
            step.write(files.REWARDED_HANDSHAKE, smoke.Handshake(
                actor_id="0-cd", accepted=True, seconds=0.1, learner=said, received=said, actor=said
            ))  # fmt: skip
            step.exact(files.REWARDED_CONFIG, second.canonical)
            step.copy(files.REWARDED_METRICS, rows(folder, range(1, UPDATES + 1)))
            step.write_all(files.REWARDED_EPISODES, episodes(second))
        step.video(folder / "rollout.mp4", clip)
        for row in table:
            step.log(row.role, log(folder, f"process is {row.nonce}\n{story.extra_log}"))
            module = MODULES[row.role.removesuffix("-rewarded")]
            step.command(["python", "-m", module], about=row.role)


def log(folder: Path, text: str) -> Path:
    path = folder / "process.log"
    path.write_text(f"INFO learner ready in {REPO}/outputs\n{text}\n")
    return path


def resume_step(writer: BundleWriter, story: Story, folder: Path) -> None:
    saved = {part: sha(part + "saved") for part in PARTS}
    final = {part: sha(part + "final") for part in PARTS}
    with begin(writer, files.RESUME, story) as step:
        table = [
            process("learner-uninterrupted", 0),
            process("learner-interrupted", 4, -9),
            process("actor-0-interrupted", 5, 4),
            process("learner-resumed", 6),
            process("actor-0-resumed", 7),
        ]
        step.write_all(files.PROCESSES[files.RESUME], table)
        for row in table[1:]:
            step.log(row.role, log(folder, f"process is {row.nonce}"))
            role, _, run = row.role.rpartition("-")
            step.command(["python", "-m", MODULES[role]], about=f"{run} {role}")
        step.write(files.KILL, resume.Kill(
            checkpoint_update=SAVED, killed_after_update=KILLED, total_updates=TOTAL,
            resume_elapsed_s=1.0, resume_deadline_s=120.0,
        ))  # fmt: skip
        step.write(files.DIGESTS, resume.StateDigests(
            saved=saved, loaded=saved, uninterrupted=final, resumed=final
        ))  # fmt: skip
        step.copy(files.UNINTERRUPTED, rows(folder, range(1, TOTAL + 1)))
        step.copy(files.INTERRUPTED, rows(folder, range(1, KILLED + 1)))
        step.copy(files.RESUMED, rows(folder, range(SAVED + 1, TOTAL + 1)))
        names = ("pretrained_model/model.safetensors", "optimizer.safetensors")
        facts = {name: resume.FileFacts(size=10, sha256=sha(name)) for name in names}
        step.write(files.CHECKPOINT, resume.CheckpointFiles(manifest=facts, found=facts))
        step.write_all(files.DAMAGED, [
            resume.DamagedCheckpoint(case=case, part="optimizer.safetensors", exit_code=5,
                                     message="optimizer.safetensors altered", optimiser_steps=0)
            for case in DAMAGE_CASES
        ])  # fmt: skip
        step.write_all(files.SAVE_KILLS, [
            resume.SaveKill(exit_code=-9, unfinished_folders=1, earlier_checkpoint_loads=True)
        ] * SAVE_KILLS)  # fmt: skip
        actions = (0.1, -0.25, 0.7, 1.0)
        step.write(files.STOCK, resume.StockLoad(
            missing_keys=(), unexpected_keys=(), actions_pirl=actions, actions_stock=actions
        ))  # fmt: skip


def case(name: str, order: int = 1, **changes) -> mismatch.Case:
    row = next((c for c in CLASSES if c.name == name), None)
    leaf = row.fields[0] if row and row.fields else "config_hash"
    direction = "checkpoint" if name.startswith(("checkpoint", "resume")) else "actor-to-learner"
    started = 0.01 * order
    facts = {
        "name": name,
        "direction": "learner-to-actor" if name == "missing-metadata" else direction,
        "probe": "process" if row is None or row.needs_process else "client",
        "hooks": (),
        "exit_code": 5,
        "deadline_s": 60.0,
        "started_s": started,
        "elapsed_s": 0.004,
        "fields": (mismatch.NamedField(field_name=leaf, ours="a", theirs="b"),),
        "decisions": None,
        "optimiser_steps": None,
        "contact": mismatch.Contact(started_s=started + 0.005, seconds=0.001, run_id="host-run"),
    }
    return mismatch.Case(**facts | changes)


def refusal(case: mismatch.Case) -> str:
    """What a refused process prints."""
    said = [f"  {f.field_name}: actor = {f.ours}, learner = {f.theirs}" for f in case.fields]
    return "\n".join(["mismatch", *said])


def mismatch_step(writer: BundleWriter, story: Story, folder: Path) -> None:
    accepted: Mapping[str, object] = {
        "exit_code": 0, "fields": (), "decisions": 12, "optimiser_steps": 2, "contact": None
    }  # fmt: skip
    with begin(writer, files.MISMATCH, story) as step:
        step.write(files.CONTROL, case("control", 0, **accepted))
        cases = [case(row.name, order=i) for i, row in enumerate(CLASSES, start=1)]
        step.write_all(files.CASES, cases)
        step.write(files.HOST, mismatch.Host(run_id="host-run", decisions=0, optimiser_steps=0))
        step.write_all(files.TEETH, [
            mismatch.Tooth(disabled=check, reported=(check,), case=case(name, 40, **accepted))
            for check, name in TEETH.items()
        ])  # fmt: skip
        for one in cases:
            if one.probe == "process" and one.name not in logs.WITHHELD:
                step.log(logs.label(one), log(folder, refusal(one)))
        others = [f"{pair}-{role}" for pair in ("control", "toothless") for role in ROLES]
        for role in (*others, "host-learner", "checkpoint-manifest-teeth"):
            step.log(role, log(folder, "INFO ready"))
            step.command(["python", "-m", "pirl.learner"], about=role)


def draw_frames(count: int = 6) -> list[np.ndarray]:
    """A moving square on a gradient, 96 px."""
    y, x = np.mgrid[0:96, 0:96]
    frames = []
    for i in range(count):
        frame = np.stack([x * 2, y * 2, np.full_like(x, 90)], axis=-1).astype(np.uint8)
        frame[30:50, 10 + 8 * i : 30 + 8 * i] = (240, 200, 40)
        frames.append(frame)
    return frames


_ENCODED: dict[str, object] = {}
"""The video, its first frame and what it shows, encoded once per session."""


def _encoded(folder: Path) -> Clip:
    if not _ENCODED:
        _ENCODED["clip"] = write_video(folder / "rollout.mp4", draw_frames(), fps=8)
        _ENCODED.update({n: (folder / n).read_bytes() for n in ("rollout.mp4", "rollout.png")})
    for name in ("rollout.mp4", "rollout.png"):
        (folder / name).write_bytes(_ENCODED[name])
    return _ENCODED["clip"]


def build_bundle(
    folder: Path, story: Story | None = None, *, pictures: bool = False
) -> FinishedBundle:
    """Write the bundle of a story to `folder/bundle`."""
    story = story or Story()
    folder.mkdir(parents=True, exist_ok=True)
    clip = _encoded(folder)
    named = ["--config", "examples/mine.json"] if story.profile == files.OWN else []
    writer = BundleWriter.start(
        folder / "bundle",
        repo_root=REPO,
        redactor=Redactor.for_this_machine(REPO, secrets=story.secrets),
        launched_by="test",
        command=["pirl", "gate", "--profile", story.profile, *named, "--variant", story.variant],
        lock_files=("constraints.txt",),
        sign_with=story.sign_with,
    )
    writer.config(story.canonical, json.loads(story.canonical))
    steps = {
        files.VALIDATE: lambda: validate_step(writer, story),
        files.SMOKE: lambda: smoke_step(writer, story, folder, clip),
        files.RESUME: lambda: resume_step(writer, story, folder),
        files.MISMATCH: lambda: mismatch_step(writer, story, folder),
    }
    for name, run in steps.items():
        if name not in story.skip_steps:
            run()
    return writer.finish(pictures=pictures)


def step_writer(bundle: Path, step: str) -> StepWriter:
    """Writes records of a step into an existing bundle."""
    writer = BundleWriter(
        folder=bundle,
        redactor=Redactor(folders=()),
        run=read_metadata(bundle, "run", Run),
        source=read_metadata(bundle, "source", Source),
    )
    return writer.step(step, config_hash="", variant="")
