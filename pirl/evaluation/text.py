"""Evaluation and comparison as text for a person: counts with intervals, never a share alone.

Owns the wording. Read `pirl.evaluation.main` next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pirl.evaluation.results import SMALL
from pirl.evaluation.verify import Comparison
from pirl.journal.stats import format_rate
from pirl.records import EpisodeRecord

_SHOWN = 20
"""Lines of a list on the terminal; the folder holds all."""


def results_text(info: Mapping[str, Any]) -> str:
    """`eval_info.json` as text."""
    identity = info["identity"]
    sampler, policy = identity["sampler"], identity["policy"]
    lines = [
        f"policy   {policy['path']} (weights {policy['weights_sha256'][:12]})",
        f"env      {identity['env']['type']}, initial states: {identity['split']['label']}",
        f"sampler  {sampler['denoising_steps']} denoising steps, executes {sampler['n_action_steps']}"
        f" of {sampler['chunk_size']} actions, noise: {sampler['noise']}; seed {identity['seed']}",
        "",
    ]
    groups = [*info["per_task"], *info["per_suite"], info["overall"]]
    width = max(len(group["name"]) for group in groups)
    lines += [f"{group['name']:<{width}}  {_figures(group)}" for group in groups]
    failures = info["failures"]
    crashes = {crash["episode_id"]: crash["reason"] for crash in info.get("crashes", ())}
    of_them = f", of them {len(crashes)} crashes of the simulator" if crashes else ""
    lines += ["", f"failures: {len(failures)}{of_them}"]
    lines += [
        f"  {f['task']}, initial state {f['init_state_id']}, seed {f['seed']}: "
        + crashes.get(f["episode_id"], f"time limit after {f['env_steps']} steps")
        for f in failures[:_SHOWN]
    ]
    if len(failures) > _SHOWN:
        lines.append(f"  and {len(failures) - _SHOWN} more in eval_info.json")
    if info["overall"]["episodes"] < SMALL:
        lines.append(f"fewer than {SMALL} episodes: a smoke figure, no performance claim")
    return "\n".join(lines) + "\n"


def comparison_text(comparison: Comparison) -> str:
    """A paired comparison as text."""
    lines = [str(comparison.overall)]
    if len(comparison.per_suite) > 1:
        lines += [f"  {suite}: {test}" for suite, test in comparison.per_suite.items()]
    lines += _episodes("only A succeeded", comparison.only_a)
    lines += _episodes("only B succeeded", comparison.only_b)
    if comparison.differences:
        lines.append("the evaluations also differ in")
        lines += [f"  {d.field}: A = {d.ours!r}, B = {d.theirs!r}" for d in comparison.differences]
    return "\n".join(lines) + "\n"


def _figures(group: Mapping[str, Any]) -> str:
    rate = format_rate(group["successes"], group["episodes"])
    won = group["mean_success_steps"]
    of_successes = "" if won is None else f", {won:.1f} over successes"
    return f"{rate}, mean length {group['mean_env_steps']:.1f} steps{of_successes}"


def _episodes(title: str, records: Sequence[EpisodeRecord]) -> list[str]:
    lines = [f"{title}: {len(records)}"]
    lines += [
        f"  {r.task}, initial state {r.init_state_id}, seed {r.seed}" for r in records[:_SHOWN]
    ]
    if len(records) > _SHOWN:
        lines.append(f"  and {len(records) - _SHOWN} more")
    return lines
