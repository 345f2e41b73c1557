"""The model card: words around the facts of a run, and a list of what was not tested.

Owns the wording. A success figure is always a count with its interval. Refuses to read a file. Read
`pirl.publish.main` next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pirl.evaluation.folder import EvalFolder
from pirl.evaluation.results import SMALL
from pirl.journal.stats import format_rate
from pirl.publish.facts import Facts, rate_text

_TAGS = ("lerobot", "robotics", "reinforcement-learning", "pirl")


def model_card(facts: Facts, *, repo_id: str) -> str:
    """`README.md` of the repository."""
    parts = [
        _front_matter(facts),
        f"# {repo_id.partition('/')[2]}\n",
        _about(facts),
        _evaluation(facts),
        _training(facts),
        _recipe(facts),
        "## What was not tested\n\n" + "".join(f"- {line}\n" for line in not_tested(facts)),
        _use(facts, repo_id),
    ]
    return "\n".join(part for part in parts if part)


def not_tested(facts: Facts) -> Iterator[str]:
    """What a reader might take for granted and nobody has shown."""
    if facts.after is None:
        yield "Held-out initial states: no result of `pirl eval` was given. Figures of training are no evaluation."
    elif facts.after.info["overall"]["episodes"] < SMALL:
        yield f"The held-out figure is of fewer than {SMALL} episodes: a smoke figure, no performance claim."
    if facts.after is not None and facts.before is None:
        yield "The policy that the run started from, on the same held-out states."
    if facts.before is not None and not facts.is_before_checked:
        yield "That the results before are of the policy that the run started from: its weights were not at hand."
    yield f"Other seeds: this is one run, with seed {facts.seed}."
    if facts.bundle is None:
        yield "The phase-2 gate (resume, mismatch, parity) on this config: no evidence bundle was given."
    elif facts.bundle["config_hash"] != facts.config_hash:
        yield "The phase-2 gate on this very config: the bundle named above is of another one."
    yield "Real robots, other cameras, other tasks and other instructions than those above."


def _front_matter(facts: Facts) -> str:
    policy: Mapping[str, Any] = facts.config["policy"]
    head: dict[str, Any] = {
        "library_name": "lerobot",
        "pipeline_tag": "robotics",
        "tags": [*_TAGS, str(policy["type"])],
    }
    if policy.get("license"):
        head["license"] = policy["license"]
    start = start_of(facts)
    if start and not Path(start).is_dir() and start.count("/") == 1:
        head["base_model"] = start
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n"


def start_of(facts: Facts) -> str:
    """Where the policy started, without a machine's folders; empty for random weights."""
    start = facts.config["policy"].get("pretrained_path")
    if not start:
        return ""
    return Path(start).name if Path(start).is_absolute() else str(start)


def _about(facts: Facts) -> str:
    start = start_of(facts) or "random weights"
    ended = {"finished": "The run finished.", "": "The run had not ended."}
    how = ended.get(facts.exit_reason, f"The run ended early: {facts.exit_reason}.")
    return (
        f"A policy of LeRobot ({facts.config['policy']['type']}), trained by online RL (piRL, variant"
        f" {facts.config['pirl']['variant']}) in simulation, from {start}.\n\n"
        f"| | |\n|---|---|\n| environment | {facts.environment} |\n"
        f"| updates | {facts.updates} of {facts.config['runtime']['total_updates']}. {how} |\n"
        f"| simulator steps | {facts.books['env_steps']} |\n"
        f"| episodes | {facts.books['episodes']} |\n"
        f"| optimiser steps | {facts.books['optimiser_steps']} |\n"
        f"| weights (SHA-256 of the file) | `{facts.weights_sha256}` |\n"
    )


def _evaluation(facts: Facts) -> str:
    after, before = facts.after, facts.before
    if after is None:
        return ""
    old = {} if before is None else _groups(before)
    sampler, policy = after.identity["sampler"], after.identity["split"]["label"]
    lines = [
        "## Evaluation\n",
        f"`pirl eval`, initial states: {policy}; {sampler['denoising_steps']} denoising steps, executes"
        f" {sampler['n_action_steps']} of {sampler['chunk_size']} actions; seed {after.identity['seed']}. Every"
        " figure was computed again from the episode records.\n",
        "| | before | after |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {old.get(name, 'not given')} | {rate} |"
        for name, rate in _groups(after).items()
    ]
    if facts.comparison:
        lines += ["", f"Paired, A before and B after: {facts.comparison}."]
    return "\n".join(lines) + "\n"


def _groups(folder: EvalFolder) -> dict[str, str]:
    groups = [*folder.info["per_task"], folder.info["overall"]]
    return {g["name"]: format_rate(g["successes"], g["episodes"]) for g in groups}


def _training(facts: Facts) -> str:
    if not facts.training:
        return ""
    first, last = facts.window, facts.updates - facts.window + 1
    rows = [f"| {c.task} | {rate_text(c.start)} | {rate_text(c.end)} |" for c in facts.training]
    return (
        "## Training episodes\n\nOn training states, with the noise that explores: no evaluation.\n\n"
        f"| task | start: updates 1 to {first} | end: updates {last} to {facts.updates} |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _recipe(facts: Facts) -> str:
    pirl: Mapping[str, Any] = facts.config["pirl"]
    shown = (
        "variant",
        "actor_lr",
        "value_lr",
        "update_epochs",
        "global_batch",
        "gamma",
        "gae_lambda",
    )
    section = pirl.get("flow_sde") or pirl.get("flow_noise") or {}
    words = [f"{name} {pirl[name]}" for name in shown] + [f"{k} {v}" for k, v in section.items()]
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    bundle = "none was given"
    if facts.bundle is not None:
        b = facts.bundle
        bundle = (
            f"{b['verdict']}, {b['criteria']} criteria, profile {b['profile']}, digest `{b['digest']}`, config"
            f" `{b['config_hash'][:12]}`"
        )
    return (
        "## Recipe\n\n"
        f"- {', '.join(words)}; the rest is in `train_config.json`\n"
        f"- seed {facts.seed}, config hash `{facts.config_hash}`, run `{facts.run_id}`\n"
        f"- {versions}\n"
        f"- evidence bundle of `pirl gate`: {bundle}\n"
    )


def _use(facts: Facts, repo_id: str) -> str:
    return (
        "## Use\n\n```\n"
        f"pirl eval --policy_path {repo_id} --config_path YOUR_CONFIG --out results\n"
        f"pirl init --from {repo_id} --env {facts.config['env']['type']} --task {facts.config['env']['task']}\n"
        "```\n\nThe folder is LeRobot's own form of a policy: `lerobot-eval --policy.path="
        + repo_id
        + "`. A\n"
        "tokenizer folder in it is looked for below the working directory: download the folder and start there.\n"
    )
