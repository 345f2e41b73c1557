"""A synthetic bundle that is true to the schema: what a perfect gate would leave behind.

Every record is made by one function, so that a test can say which one it spoils.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pirl.evidence.bundle import BundleWriter, FinishedBundle
from pirl.evidence.measure_learning import MUST_BE_FINITE
from pirl.evidence.measure_mismatch import CLASSES, TEETH
from pirl.evidence.measure_resume import DAMAGE_CASES, PARTS
from pirl.evidence.measure_validate import (
    REFUSED_CASES,
    SETTINGS,
    advantages,
    flow_sde_std,
    gaussian_log_prob,
)
from pirl.evidence.media import write_video
from pirl.evidence.outcomes import SUCCESS_DEFINITION
from pirl.evidence.redact import Redactor

REPO = Path(__file__).parents[3]
UPDATES, SAVED, KILLED, TOTAL = 3, 2, 3, 5
PER_UPDATE = 8
TASKS = {
    "libero": ("libero_10", ("put both moka pots on the stove", "turn on the stove")),
    "embedded": ("metaworld", ("button-press-topdown-v3",)),
}
ENV_TYPE = {"libero": "libero", "embedded": "pirl_metaworld"}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Story:
    """What happened; a test changes one field to tell another story."""

    profile: str = "embedded"
    variant: str = "flow-sde"
    secrets: tuple[str, ...] = ()
    extra_log: str = ""
    skip_steps: tuple[str, ...] = ()
    overrides: dict[str, dict] = field(default_factory=dict)
    """Path under raw/ to a replacement of the object that is written there."""

    @property
    def canonical(self) -> str:
        config = {
            "env": {"type": ENV_TYPE[self.profile], "task": TASKS[self.profile][1][0]},
            "pirl": {"variant": self.variant},
            "recipe": "pi-rl",
            "seed": 7,
        }
        return json.dumps(config, sort_keys=True, separators=(",", ":"))

    @property
    def config_hash(self) -> str:
        return sha(self.canonical)

    @property
    def identity(self) -> dict:
        return {
            "protocol_version": 1,
            "recipe": "pi-rl",
            "variant": self.variant,
            "config_path": "configs/train_config_pirl_smoke.json",
            "config_hash": self.config_hash,
            "run_id": "run-0001",
            "policy_type": "xvla",
            "policy_architecture": sha("architecture"),
            "action_mode": "auto",
            "denoising_steps": 2,
            "executed_steps": 4,
        }


def update_row(update: int) -> dict[str, float]:
    row = dict.fromkeys(MUST_BE_FINITE, 0.0)
    row |= {
        "update/policy_loss": -0.02 / update + 0.013 * math.sin(2.1 * update),
        "update/value_loss": 0.3 / update,
        "update/approx_kl": 0.011,
        "update/grad_norm_actor": 0.7,
        "update/optimiser_steps": 8.0,
        "update/ratio_mean": 1.0,
        "rollout/successes": float(min(PER_UPDATE, 2 + update)),
        "rollout/episodes": float(PER_UPDATE),
        "version/current": float(update),
        "time/update_s": 1.9 + 0.1 * update,
        "time/wait_s": 3.2,
        "time/publish_s": 0.04,
        "time/checkpoint_s": 0.11,
    }
    bins = (0, 0, 7, 41 + update, 52 - update, 6, 2, 0)
    row |= {f"update/ratio_bin_{index}": float(count) for index, count in enumerate(bins)}
    return row


def metric_lines(updates) -> list[dict]:
    return [
        {"format": 1, "step": u, "version": u, "elapsed_s": 5.0 * u, "metrics": update_row(u)}
        for u in updates
    ]


def actor_lines() -> list[dict]:
    times = {
        "env_step": 1.1,
        "render": 0.9,
        "infer": 0.6,
        "encode": 0.05,
        "send": 0.03,
        "wait": 2.0,
    }
    metrics = {f"time/{stage}_s": value for stage, value in times.items()}
    return [
        {"format": 1, "step": u, "version": u - 1, "elapsed_s": 4.0 * u, "metrics": metrics}
        for u in range(1, UPDATES + 1)
    ]


def episode_records(story: Story) -> list[dict]:
    suite, tasks = TASKS[story.profile]
    records = []
    for update in range(1, UPDATES + 1):
        wins = int(update_row(update)["rollout/successes"])
        for slot in range(PER_UPDATE):
            won = slot < wins
            records.append(
                {
                    "actor": 0,
                    "phase": "train",
                    "env_type": ENV_TYPE[story.profile],
                    "suite": suite,
                    "task_id": slot % len(tasks),
                    "task": tasks[slot % len(tasks)],
                    "init_state_id": slot,
                    "seed": 1000 * update + slot,
                    "episode_id": len(records),
                    "policy_version": update - 1,
                    "env_steps": 80 if won else 95,
                    "decisions": 4 if won else 5,
                    "reward": float(won),
                    "success": won,
                    "truncated": not won,
                    "end": "success" if won else "timeout",
                }
            )
    return records


def process(role: str, label: str, exit_code: int = 0) -> dict:
    return {
        "role": role,
        "label": label,
        "exit_code": exit_code,
        "started_s": 0.2,
        "ended_s": 21.5,
        "hooks": [],
    }


def validate_step(writer: BundleWriter, story: Story) -> None:
    suite, tasks = TASKS[story.profile]
    with writer.step("validate-config") as step:
        step.record("config.json", {
            "path": story.identity["config_path"], "hash": story.config_hash, "recipe": "pi-rl",
            "variant": story.variant, "overrides": [], "hooks": [],
        })  # fmt: skip
        reason = "" if story.profile == "libero" else "LIBERO assets are not on this machine"
        step.record("profile.json", {
            "requested": "auto", "profile": story.profile, "reason": reason,
            "env_type": ENV_TYPE[story.profile], "suite": suite,
        })  # fmt: skip
        rules = [f"rule {i}" for i in range(20)]
        step.lines("rules.jsonl", [{"rule": r, "field": "x", "outcome": "passed"} for r in rules])
        said = {"field": "pirl.variant", "value": "'x'", "expected": "a variant", "fix": "set it"}
        cases = [{"case": c, "exit_code": 2, "fields": [said]} for c in REFUSED_CASES]
        step.lines("refused.jsonl", cases)
        clauses = [f"clause {i}" for i in range(8)]
        step.lines("contract.jsonl", [{"clause": c, "outcome": "passed"} for c in clauses])
        step.lines("preflight.jsonl", [{"check": "GL renders", "outcome": "passed"}])
        step.record("env.json", {"reset": True, "env_steps": 20, "frame_std": 41.5})
        settings = dict.fromkeys(SETTINGS, 1) | {
            "numerics": "cpu/float32", "success_definition": SUCCESS_DEFINITION,
            "stopping_rule": "a fixed number of updates",
            "parameters": {"total": 255000, "trained": 90000, "sent": 90000},
        }  # fmt: skip
        step.record("settings.json", settings)
        states = {"train": list(range(40)), "heldout": list(range(40, 50))}
        step.record("split.json", {"digest": sha("split"), "tasks": dict.fromkeys(tasks, states)})
        step.record("inputs.json", {
            "checkpoint": {"source": "random initialisation", "revision": "seed 7",
                           "licence": "Apache-2.0", "files": {"model.safetensors": sha("w")}},
            "environment": {"name": suite, "version": "3.0.0", "tasks": list(tasks),
                            "assets": {"source": "wheels", "git_tree": "c" * 40},
                            "initial_states": dict.fromkeys(tasks, sha("states"))},
        })  # fmt: skip
        step.lines("analytic.jsonl", analytic_cases())


def analytic_cases() -> list[dict]:
    gaussian = {"kind": "gaussian", "x": [0.1, -0.4], "mean": [0.0, -0.3], "std": [0.2, 0.5]}
    gae = {
        "kind": "gae", "rewards": [0, 0, 1, 0, 0, 0], "values": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "next_values": [0.2, 0.3, 0.0, 0.5, 0.6, 0.7],
        "done": [False, False, True, False, False, False],
        "truncated": [False, False, False, False, False, True], "gamma": 0.99, "lambda": 0.95,
    }  # fmt: skip
    std = {"kind": "flow-sde-std", "denoising_steps": 5, "noise_level": 0.5}
    return [
        gaussian | {"log_prob": gaussian_log_prob(gaussian)},
        gae | {"advantages": advantages(gae)},
        std | {"std": flow_sde_std(std)},
    ]


def counters(story: Story) -> tuple[dict, dict]:
    episodes = episode_records(story)
    by_version: dict[str, int] = {}
    for episode in episodes:
        version = str(episode["policy_version"])
        by_version[version] = by_version.get(version, 0) + episode["decisions"]
    sent = sum(by_version.values())
    learner = {
        "received": sent, "consumed": sent, "dropped": {"stale": 0}, "bytes_received": 9000 * sent,
        "episodes_received": len(episodes), "published": list(range(UPDATES + 1)),
    }  # fmt: skip
    actor = {
        "sent": sent, "bytes_sent": 9000 * sent, "episodes_sent": len(episodes),
        "by_version": by_version, "versions_received": list(range(UPDATES)),
    }  # fmt: skip
    return learner, actor


def smoke_step(writer: BundleWriter, story: Story, video: Path, log: Path) -> None:
    learner, actor = counters(story)
    with writer.step("smoke-run") as step:
        step.record("processes.json", {
            "processes": [process("learner", "p1"), process("actor-0", "p2")]
        })  # fmt: skip
        step.record("handshake-0.json", {
            "rank": 0, "accepted": True, "verified_before_load": True,
            "learner": story.identity, "actor": story.identity,
        })  # fmt: skip
        step.record("counters-learner.json", learner)
        step.record("counters-actor-0.json", actor)
        step.text("config-learner.json", story.canonical)
        step.text("config-actor-0.json", story.canonical)
        step.lines("metrics-learner.jsonl", metric_lines(range(1, UPDATES + 1)))
        step.lines("metrics-actor-0.jsonl", actor_lines())
        names = ("model.transformer.blocks.0.attn.weight", "model.transformer.pos_emb")
        step.record("digests.json", {
            side: {"trained": {n: sha(n + side) for n in names},
                   "frozen": {"model.vlm.embed.weight": sha("frozen")}}
            for side in ("before", "after")
        })  # fmt: skip
        looked = {"processes": ["p1", "p2"], "ports": ["learner"], "shared_memory": ["pirl-*"]}
        step.record("leftovers.json", {
            "processes": [], "ports": [], "shared_memory": [], "looked_for": looked
        })  # fmt: skip
        step.lines("episodes.jsonl", episode_records(story))
        step.video(video, facts={"episode_id": 0, "task": TASKS[story.profile][1][0]})
        step.log("learner", log)
        step.log("actor-0", log)
    writer.command(
        ["python", "-m", "pirl.learner", "--config_path", story.identity["config_path"]],
        comment="smoke-run, learner",
    )


def resume_step(writer: BundleWriter, story: Story) -> None:
    saved = {part: sha(part + "saved") for part in PARTS}
    final = {part: sha(part + "final") for part in PARTS}
    with writer.step("resume-roundtrip") as step:
        step.record("processes.json", {"processes": [
            process("learner-uninterrupted", "p3"), process("learner-interrupted", "p4", -9),
            process("learner-resumed", "p5"),
        ]})  # fmt: skip
        step.record("kill.json", {
            "signal": "SIGKILL", "exit_code": -9, "checkpoint_update": SAVED,
            "killed_after_update": KILLED, "total_updates": TOTAL, "during_later_work": True,
            "resume_elapsed_s": 12.0, "resume_deadline_s": 120.0,
        })  # fmt: skip
        step.record("digests.json", {
            "saved": saved, "loaded": saved, "uninterrupted": final, "resumed": final
        })  # fmt: skip
        step.lines("metrics-uninterrupted.jsonl", metric_lines(range(1, TOTAL + 1)))
        step.lines("metrics-interrupted.jsonl", metric_lines(range(1, KILLED + 1)))
        step.lines("metrics-resumed.jsonl", metric_lines(range(SAVED + 1, TOTAL + 1)))
        files = {"pretrained_model/model.safetensors": {"size": 10, "sha256": sha("w")}}
        step.record("checkpoint.json", {"manifest": files, "found": files})
        step.lines("damaged.jsonl", [
            {"case": case, "part": "optimizer.safetensors", "exit_code": 5, "optimiser_steps": 0,
             "message": "checkpoint refused: optimizer.safetensors altered"}
            for case in DAMAGE_CASES
        ])  # fmt: skip
        step.lines("interrupted_saves.jsonl", [{"kill": 0, "earlier_checkpoint_loads": True}])
        actions = [0.1, -0.25, 0.7, 1.0]
        step.record("stock.json", {
            "loader": "XVLAPolicy.from_pretrained(strict=True)", "missing_keys": [],
            "unexpected_keys": [], "actions_pirl": actions, "actions_stock": actions,
        })  # fmt: skip


def case(name: str, *, order: int = 1, **changes) -> dict:
    row = next((c for c in CLASSES if c.name == name), None)
    leaf = row.fields[0] if row and row.fields else "config_hash"
    direction = "checkpoint" if name.startswith(("checkpoint", "resume")) else "actor-to-learner"
    return {
        "order": order,
        "class": name,
        "direction": "learner-to-actor" if name == "missing-metadata" else direction,
        "probe": "process" if row is None or row.needs_process else "client",
        "exit_code": 5,
        "deadline_s": 60.0,
        "elapsed_s": 9.5,
        "fields": [{"field": leaf, "ours": "a", "theirs": "b"}],
        "transitions_accepted": 0,
        "optimiser_steps": 0,
        "learner_healthy": True,
        "hooks": [],
    } | changes


def mismatch_step(writer: BundleWriter, story: Story) -> None:
    control = case("control", order=0, exit_code=0, fields=[], transitions_accepted=12)
    with writer.step("mismatch-negative") as step:
        cases = [case(row.name, order=i) for i, row in enumerate(CLASSES, start=1)]
        step.lines("cases.jsonl", [control, *cases])
        step.lines("teeth.jsonl", [
            case("config-hash", exit_code=0, fields=[], transitions_accepted=9)
            | {"disabled": check, "hooks": [check]}
            for check in TEETH
        ])  # fmt: skip


def draw_frames(count: int = 6) -> list[np.ndarray]:
    """A moving square on a gradient, 96 px."""
    y, x = np.mgrid[0:96, 0:96]
    frames = []
    for i in range(count):
        frame = np.stack([x * 2, y * 2, np.full_like(x, 90)], axis=-1).astype(np.uint8)
        frame[30:50, 10 + 8 * i : 30 + 8 * i] = (240, 200, 40)
        frames.append(frame)
    return frames


_ENCODED: dict[str, bytes] = {}
"""The video and its first frame, encoded once per session."""


def _encoded(folder: Path) -> dict[str, bytes]:
    if not _ENCODED:
        write_video(folder / "rollout.mp4", draw_frames(), fps=8)
        _ENCODED.update({n: (folder / n).read_bytes() for n in ("rollout.mp4", "rollout.png")})
    return _ENCODED


def build_bundle(
    folder: Path, story: Story | None = None, *, pictures: bool = False
) -> FinishedBundle:
    """Write the bundle of a story to `folder/bundle`."""
    story = story or Story()
    folder.mkdir(parents=True, exist_ok=True)
    video = folder / "rollout.mp4"
    for path, content in _encoded(folder).items():
        (folder / path).write_bytes(content)
    log = folder / "process.log"
    log.write_text(f"INFO learner ready in {REPO}/outputs\nINFO update 1\n{story.extra_log}")
    writer = BundleWriter.start(
        folder / "bundle",
        repo_root=REPO,
        redactor=Redactor.for_this_machine(REPO, secrets=story.secrets),
        launched_by="test",
        lock_files=("constraints.txt",),
        environment={"gl": "llvmpipe", "torch_threads": 1},
    )
    writer.config(story.canonical, json.loads(story.canonical))
    steps = {
        "validate-config": lambda: validate_step(writer, story),
        "smoke-run": lambda: smoke_step(writer, story, video, log),
        "resume-roundtrip": lambda: resume_step(writer, story),
        "mismatch-negative": lambda: mismatch_step(writer, story),
    }
    for name, run in steps.items():
        if name not in story.skip_steps:
            run()
    for name, value in story.overrides.items():
        writer.write_json(f"raw/{name}", value)
    return writer.finish(pictures=pictures)
