"""Records that say something of the same thing must say the same: one of them alone cannot be changed unseen.

Owns which records speak of one thing; a tie is a function that yields both values. What is missing is for a
criterion to say: a tie without its records yields nothing. Read `pirl.audit.verify_ties` first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from pirl import doors
from pirl.audit import outcomes
from pirl.audit.criteria.learning import REWARDED_TASK
from pirl.audit.criteria.mismatch import CLASSES, DIRECTIONS, TEETH
from pirl.audit.criteria.resume import SAVE_KILLS, SIGKILL
from pirl.audit.criteria.validate import (
    CLAUSES,
    GAUSSIAN_ELEMENTS,
    PACKAGE_OF,
    REFUSED_CASES,
    STD_STEPS,
)
from pirl.audit.derive import read_metadata
from pirl.audit.findings import Problem
from pirl.audit.raw import MissingRecordError, RawRecords
from pirl.audit.records import files
from pirl.audit.records.common import Seal
from pirl.audit.records.metadata import Environment, Run
from pirl.audit.records.smoke import Episode
from pirl.audit.units import Pairs, units_of_records
from pirl.config.rules import rule_outcomes
from pirl.errors import EvidenceError
from pirl.hooks import VARIABLE
from pirl.journal.codec import to_json
from pirl.journal.fields import read_object
from pirl.journal.metric_log import MetricRow

SLACK_S = 2.0
"""The process table counts from a boot time in whole seconds."""

MACHINE = "metadata/environment.json"
"""Names the distributions that offered a policy, an environment or a reward."""

NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?")

type Tie = Callable[[RawRecords], Pairs]


def agreement(raw: RawRecords) -> list[Problem]:
    """Everything that one record says and another contradicts."""
    return [
        Problem("agreement", what, f"{shown(here)}, and by what else is recorded {shown(there)}")
        for tie in TIES
        for what, here, there in _of(tie, raw)
        if repr(here) != repr(there)
    ]


def _of(tie: Tie, raw: RawRecords) -> Pairs:
    try:
        yield from tie(raw)
    except MissingRecordError:
        # Its criterion was not run: the bundle is not accepted.
        return
    except EvidenceError as error:
        yield tie.__name__, str(error), "a record"


def _unless(holds: bool, what: str, here: object, there: str) -> Pairs:
    if not holds:
        yield what, here, there


def shown(value: object) -> str:
    """A value on one line of a report, cut."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _tree(raw: RawRecords) -> Mapping[str, Any]:
    """The readable config, which has the fields of the hashed one and those of this host."""
    return read_object(raw.root / "config" / "train_config.json")


def config_of_settings(raw: RawRecords) -> Pairs:
    """What settings.json and config.json repeat of the config."""
    tree, config, settings = _tree(raw), raw.one(files.CONFIG), raw.one(files.SETTINGS)
    runtime, variant = tree["runtime"], tree["pirl"]["variant"]
    yield "config.json recipe", config.recipe, tree["recipe"]
    yield "config.json variant", config.variant, variant
    yield "settings.json seed", settings.seed, tree["seed"]
    yield "settings.json episode_length", settings.episode_length, tree["env"]["episode_length"]
    for name in ("total_updates", "rollout_chunks", "actors", "mode", "split", "torch_threads"):
        yield f"settings.json {name}", getattr(settings, name), runtime[name]
    knobs = tree["pirl"][str(variant).replace("-", "_")]
    # The record keeps every list as floats.
    noise = {k: list(map(float, v)) if isinstance(v, list) else v for k, v in sorted(knobs.items())}
    yield "settings.json noise", to_json(settings)["noise"], noise
    is_cuda = str(runtime.get("learner_device")).startswith("cuda")
    yield "settings.json numerics", settings.numerics, f"{'cuda' if is_cuda else 'cpu'}/float32"
    if "chunk_size" in tree["policy"]:
        yield "settings.json chunk_size", settings.chunk_size, tree["policy"]["chunk_size"]
    start, path = raw.one(files.INPUTS).checkpoint.source, tree["policy"].get("pretrained_path")
    yield "inputs.json checkpoint.source", start, start if path is None else path
    yield (
        "settings.json success_definition",
        settings.success_definition,
        outcomes.SUCCESS_DEFINITION,
    )
    yield "settings.json stopping_rule", settings.stopping_rule, outcomes.STOPPING_RULE


def code_of_validation(raw: RawRecords) -> Pairs:
    """Every rule, clause and bad config of this code was tried, in its order, and no other."""
    tree = _tree(raw)
    unknown = list(_not_installed(tree))
    for name in unknown:
        yield (
            f"rules.jsonl, of {name}",
            "its rules",
            f"nothing: install its distribution ({MACHINE})",
        )
    rules = [outcome.rule for outcome in rule_outcomes(tree)]
    if not unknown:
        yield "rules.jsonl", [rule.rule for rule in raw.all(files.RULES)], rules
    yield "contract.jsonl", [c.clause for c in raw.all(files.CONTRACT)], list(CLAUSES)
    yield "analytic-std.jsonl", [s.denoising_steps for s in raw.all(files.STD)], list(STD_STEPS)
    elements = [len(case.x) for case in raw.all(files.GAUSSIAN)]
    yield "analytic-gaussian.jsonl", elements, [GAUSSIAN_ELEMENTS]
    yield "invalid.jsonl", [c.case for c in raw.all(files.INVALID)], list(REFUSED_CASES)


def _not_installed(tree: Mapping[str, Any]) -> Iterator[str]:
    """Kinds that the config names and nobody here offers."""
    for group, field in doors.FIELDS.items():
        name = (tree.get(field.partition(".")[0]) or {}).get("type")
        if isinstance(name, str) and not doors.is_installed(group, name):
            yield f"{field}={name}"


def command_of_config(raw: RawRecords) -> Pairs:
    """The numbers that the command of the gate sets are those of the config, and it says nothing else."""
    tree, words = _tree(raw), read_metadata(raw.root, "run", Run).command
    given, stray, name = dict[str, str](), list[str](), ""
    for word in words[2:]:
        if word.startswith("--"):
            name, equals, text = word.removeprefix("--").partition("=")
            if equals:
                given[name], name = text, ""
        elif name:
            given[name], name = word, ""
        else:
            stray.append(word)
    yield "metadata/run.json command", stray, []
    for name, text in given.items():
        value: Any = tree
        for part in name.split("."):
            value = (
                cast("Mapping[str, Any]", value).get(part) if isinstance(value, Mapping) else None
            )
        if type(value) in (int, float) and NUMBER.fullmatch(text):
            yield f"metadata/run.json --{name}", float(text), float(value)


def reason_of_profile(raw: RawRecords) -> Pairs:
    """Why it is not the real profile: one of the reasons that a gate gives."""
    profile = raw.one(files.PROFILE)
    is_real = profile.profile == "libero"
    known = outcomes.REASONS.get(profile.profile, ())
    fits = profile.reason == "" if is_real else profile.reason.startswith(known)
    yield from _unless(fits, "profile.json reason", profile.reason, "a reason that a gate gives")


def machine_of_versions(raw: RawRecords) -> Pairs:
    """Versions and disabled checks, as `metadata/environment.json` has them."""
    machine = read_metadata(raw.root, "environment", Environment)
    for package in raw.all(files.PACKAGES):
        name = package.package
        there = machine.python if name == "python" else machine.packages.get(name)
        yield f"packages.jsonl {name}", package.version, there
    simulator, env_type = raw.one(files.INPUTS).environment, raw.one(files.PROFILE).env_type
    if env_type in PACKAGE_OF:
        name, package = PACKAGE_OF[env_type]
        yield "inputs.json environment.name", simulator.name, name
        version = simulator.version
    else:
        # By default the distribution that offers it, and its version; a kind may say it otherwise.
        package, _, version = simulator.version.rpartition(" ")
    if env_type in PACKAGE_OF or package in machine.packages:
        yield "inputs.json environment.version", version, machine.packages.get(package)
    yield "inputs.json environment.mujoco", simulator.mujoco, machine.packages.get("mujoco")
    hooks = sorted(filter(None, (machine.variables.get(VARIABLE) or "").split(",")))
    yield "config.json hooks", list(raw.one(files.CONFIG).hooks), hooks


def states_of_tasks(raw: RawRecords) -> Pairs:
    """Tasks and initial states that may be played."""
    split, settings = raw.one(files.SPLIT), raw.one(files.SETTINGS)
    tasks = raw.one(files.INPUTS).environment.tasks
    second = (REWARDED_TASK,) if outcomes.has_second(raw) else ()
    yield "split.json mode", split.mode, settings.split
    yield "split.json tasks", sorted(split.tasks), sorted({*tasks, *second})
    look = raw.one(files.FIRST_LOOK)
    # Grey levels from 0 to 255 cannot spread more.
    yield "first_look.json frame_std", min(look.frame_std, 127.5), look.frame_std
    yield from _unless(look.task in tasks, "first_look.json task", look.task, "a task")
    if split.mode == "train" and look.task in split.tasks:
        state, train = look.init_state_id, split.tasks[look.task].train
        yield from _unless(
            state in train, "first_look.json init_state_id", state, "a training state"
        )


def identity_of_actors(raw: RawRecords) -> Pairs:
    """One learner met every actor, with the settings of the run."""
    seal = raw.one(files.SEALS[files.SMOKE])
    settings, ranks = raw.one(files.SETTINGS), raw.ranks(files.HANDSHAKE)
    met = [raw.one(files.HANDSHAKE, rank) for rank in ranks]
    yield "handshake-*.json of actors", ranks, list(range(settings.actors))
    yield "handshake-*.json actor_id", len({m.actor_id for m in met}), len(met)
    for rank, one in zip(ranks, met, strict=True):
        where = f"handshake-{rank}.json"
        yield from _inside(f"{where} seconds", seal, seal.started_s, one.seconds)
        yield f"{where} learner", dict(one.learner), dict(met[0].learner)
        for name in ("executed_steps", "denoising_steps", "action_mode", "control_mode"):
            yield f"{where} {name}", one.learner.get(name), getattr(settings, name)
        said = str(one.learner.get("state_split")).partition(" of ")[0]
        yield f"{where} state_split", said, settings.split


def rows_of_episodes(raw: RawRecords) -> Pairs:
    """Each update's figures are those of its episodes, and the run has the updates of the settings."""
    settings, rows = raw.one(files.SETTINGS), raw.metrics(files.LEARNER_METRICS)
    yield "metrics-learner.jsonl updates", rows[-1].step, settings.total_updates
    elapsed = [row.elapsed_s for row in rows]
    yield "metrics-learner.jsonl elapsed_s", elapsed, sorted(elapsed)
    yield from _figures("metrics-learner.jsonl", rows, outcomes.all_episodes(raw))
    tasks = dict(enumerate(raw.one(files.INPUTS).environment.tasks))
    for episode in outcomes.all_episodes(raw):
        where = f"episodes.jsonl {episode.episode_id}"
        yield f"{where} task_id", tasks.get(episode.task_id), episode.task
    if outcomes.has_second(raw):
        second = outcomes.rewarded_episodes(raw)
        yield from _figures("rewarded-metrics.jsonl", outcomes.rewarded_rows(raw), second)


def _figures(where: str, rows: Sequence[MetricRow], episodes: Sequence[Episode]) -> Pairs:
    used = outcomes.used(episodes)
    steps = [row.step for row in rows]
    yield (
        f"{where} updates",
        sorted({*steps, *(e.update for e in used)}, key=str),
        sorted(steps, key=str),
    )
    for row in rows:
        yield f"{where} version", row.version, row.step
        yield f"{where} version/current", row.metrics.get("version/current"), float(row.step)
        mine = [e for e in used if e.update == row.step]
        count = max(len(mine), 1)
        figures: dict[str, float] = {
            "episodes": len(mine),
            "successes": (won := sum(e.end == "success" for e in mine)),
            "success_rate": won / count,
            "env_steps": (env_steps := sum(e.env_steps for e in mine)),
            "mean_env_steps": env_steps / count,
            "mean_decisions": sum(e.decisions for e in mine) / count,
            "mean_return": sum(e.reward or 0.0 for e in mine) / count,
        }
        for name, value in figures.items():
            yield (
                f"{where} {row.step} rollout/{name}",
                row.metrics.get(f"rollout/{name}"),
                float(value),
            )


def books_of_decisions(raw: RawRecords) -> Pairs:
    """The books of both sides, of the metric rows and of the episodes."""
    learner, rows = raw.one(files.LEARNER_COUNTERS), raw.metrics(files.LEARNER_METRICS)
    last, used = rows[-1].metrics, outcomes.used(outcomes.all_episodes(raw))
    yield "counters-learner.json consumed", float(learner.consumed), last.get("counters/consumed")
    if float(learner.received) == last.get("counters/received"):
        received = float(learner.bytes_received), last.get("link/bytes_received")
        yield "counters-learner.json bytes_received", *received
    acted: Counter[int] = Counter()
    for rank in raw.ranks(files.ACTOR_COUNTERS):
        books = raw.one(files.ACTOR_COUNTERS, rank)
        acted.update({int(version): count for version, count in books.by_version.items()})
        got = list(books.versions_received)
        where = f"counters-actor-{rank}.json"
        yield f"{where} versions_received", got, [v for v in range(rows[-1].step + 1) if v in got]
        for row in raw.metrics(files.ACTOR_METRICS, rank):
            if row.metrics.get("counters/sent") == float(books.sent):
                sent = float(books.bytes_sent), row.metrics.get("link/bytes_sent")
                yield f"{where} bytes_sent", *sent
    # Nobody would act with the last version.
    yield "counters-learner.json published", list(learner.published), list(range(rows[-1].step))
    if raw.one(files.SETTINGS).mode == "sync" and learner.received == learner.consumed:
        played: Counter[int] = Counter()
        for episode in used:
            played[episode.policy_version] += episode.decisions
        yield "counters-actor-*.json by_version", sorted((+acted).items()), sorted(played.items())
        yield from _rollouts(raw, used, rows[-1].step)


def _rollouts(raw: RawRecords, used: Sequence[Episode], updates: int) -> Pairs:
    """Each version's rollouts by the actors' rows. Of the last one a row may lack: its actor was told to end."""
    ranks = raw.ranks(files.ACTOR_METRICS)
    rows = [row for rank in ranks for row in raw.metrics(files.ACTOR_METRICS, rank)]
    for version in range(updates):
        mine = [row.metrics for row in rows if row.version == version]
        if version == updates - 1 and len(mine) < len(ranks):
            continue
        played = [e for e in used if e.policy_version == version]
        for name, count in (
            ("episodes", len(played)),
            ("successes", sum(e.end == "success" for e in played)),
            ("env_steps", sum(e.env_steps for e in played)),
        ):
            here = sum(row.get(f"rollout/{name}", 0.0) for row in mine)
            yield f"metrics-actor-*.jsonl version {version} {name}", here, float(count)


def processes_of_steps(raw: RawRecords) -> Pairs:
    """Who ran, when and by which command; the uninterrupted learner is the one of smoke-run."""
    ran = {step: raw.all(file) for step, file in files.PROCESSES.items()}
    roles = [row.role for row in ran[files.SMOKE]]
    yield "leftovers.json looked_for", list(raw.one(files.LEFTOVERS).looked_for.processes), roles
    runs = [r for r in roles if r not in files.REWARDED_ROLES]
    again = [f"{role}-{run}" for run in ("interrupted", "resumed") for role in runs]
    of_resume = [row.role for row in ran[files.RESUME]]
    yield "resume-roundtrip/processes.jsonl", of_resume, ["learner-uninterrupted", *again]
    first = next(row for row in ran[files.SMOKE] if row.role == "learner")
    same = ("nonce", "started_s", "seconds", "exit_code", "hooks")
    for name in same:
        here = getattr(ran[files.RESUME][0], name)
        yield f"learner-uninterrupted {name}", here, getattr(first, name)
    for step, rows in ran.items():
        seal = raw.one(files.SEALS[step])
        started = [row.role for row in rows if not row.role.endswith("-uninterrupted")]
        yield f"{step}/commands.jsonl", sorted(_started(raw, step)), sorted(started)
        for row in rows:
            if row.role in started and row.started_s is not None:
                yield from _inside(f"{row.role} times", seal, row.started_s, row.seconds)


def _started(raw: RawRecords, step: str) -> Iterable[str]:
    """Roles that the commands of a step are about: `resumed actor-0` is `actor-0-resumed`."""
    for command in raw.all(files.COMMANDS[step]):
        run, _, role = command.about.rpartition(" ")
        yield f"{role}-{run}" if run else role
        module = "pirl.learner" if role.startswith("learner") else "pirl.actor"
        if command.argv[1:3] != ("-m", module):
            yield f"no {module} for {role}"


def _inside(what: str, seal: Seal, began: float, took: float) -> Pairs:
    """Whether something began and ended in the step of a seal."""
    span = round(began, 3), round(began + took, 3)
    fits = seal.started_s - SLACK_S <= began and began + took <= seal.ended_s + SLACK_S
    there = f"inside {seal.started_s:.3f} to {seal.ended_s:.3f} s, the times of {seal.step}"
    yield from _unless(fits, what, span, there)


def rows_of_resume(raw: RawRecords) -> Pairs:
    """When the learner was killed and resumed, by its metric rows, its processes and the settings."""
    kill, seal = raw.one(files.KILL), raw.one(files.SEALS[files.RESUME])
    before, after = raw.metrics(files.INTERRUPTED), raw.metrics(files.RESUMED)
    own = raw.text(files.LEARNER_METRICS)
    is_own = raw.text(files.UNINTERRUPTED) == own
    yield from _unless(is_own, "metrics-uninterrupted.jsonl", "other rows", "those of smoke-run")
    yield "kill.json total_updates", kill.total_updates, raw.one(files.SETTINGS).total_updates
    yield "kill.json killed_after_update", kill.killed_after_update, before[-1].step
    kept = [row for row in after if row.step <= kill.checkpoint_update]
    saved = [row for row in before if row.step <= kill.checkpoint_update]
    yield "metrics-resumed.jsonl before the kill", kept or saved, saved
    learner = [p for p in raw.all(files.PROCESSES[files.RESUME]) if p.role == "learner-resumed"]
    for row in learner:
        elapsed_s = kill.resume_elapsed_s
        yield from _inside("kill.json resume_elapsed_s", seal, seal.started_s, elapsed_s)
        fits = row.seconds - SLACK_S <= elapsed_s
        yield from _unless(
            fits, "kill.json resume_elapsed_s", elapsed_s, f"{row.seconds} s of its learner"
        )
    found = set(raw.one(files.CHECKPOINT).found)
    parts = {d.part for d in raw.all(files.DAMAGED) if d.case != "missing-manifest"}
    yield "damaged.jsonl parts", sorted(parts - found), []
    yield (
        "save_kills.jsonl",
        [k.exit_code for k in raw.all(files.SAVE_KILLS)],
        [SIGKILL] * SAVE_KILLS,
    )


def cases_of_mismatch(raw: RawRecords) -> Pairs:
    """Cases of the known classes only, inside their step."""
    seal, cases = raw.one(files.SEALS[files.MISMATCH]), raw.all(files.CASES)
    teeth = raw.all(files.TEETH)
    known = {row.name for row in CLASSES}
    yield "cases.jsonl names", sorted({c.name for c in cases} - known), []
    yield "cases.jsonl directions", sorted({c.direction for c in cases} - {*DIRECTIONS}), []
    yield "cases.jsonl probes", sorted({c.probe for c in cases} - {"process", "client"}), []
    yield "teeth.jsonl", [(t.disabled, t.case.name) for t in teeth], list(TEETH.items())
    yield "teeth.jsonl killed", [t.disabled for t in teeth if t.case.exit_code is None], []
    control = raw.one(files.CONTROL)
    yield "control.json direction", control.direction, "actor-to-learner"
    for case in [control, *cases, *(tooth.case for tooth in teeth)]:
        yield from _inside(f"{case.name} times", seal, case.started_s, case.elapsed_s)
        if case.contact:
            contact = case.contact
            yield from _inside(f"{case.name} contact", seal, contact.started_s, contact.seconds)


TIES: tuple[Tie, ...] = (
    config_of_settings, command_of_config, code_of_validation, reason_of_profile, machine_of_versions,
    states_of_tasks, identity_of_actors, rows_of_episodes, books_of_decisions, processes_of_steps, rows_of_resume,
    cases_of_mismatch, units_of_records,
)  # fmt: skip
