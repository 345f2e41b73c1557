"""Whether piRL improves a policy on a task when neither is its own: SmolVLA on `pointreach`, with a control.

python -m benchmarks.second_policy [--smoke] [--json] [--out DIR]

Puts both plug-ins on the path as an installer would and runs `pirl bench study second_policy --params
examples/second_policy/learning.yaml`: warm start, held-out episodes, piRL through learner and actor, the same
episodes again. Rows that `--out` holds already are not run again. Exit code 1 when a row does not keep its bounds;
`--smoke` runs a moment of the first row and judges nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ROOT / "plugins"
STUDY = "second_policy"
PARAMS = ROOT / "examples" / STUDY / "learning.yaml"
SHORT = {
    "episodes": 2,
    "evaluation_envs": 2,
    "overrides": [
        "--runtime.total_updates=1",
        "--runtime.rollout_chunks=16",
        "--runtime.envs_per_actor=2",
    ],
}
"""What `--smoke` puts over the settings `learn`; its warm start is as short."""


def install(target: Path) -> list[str]:
    """Write the metadata of every distribution in `plugins/`; the folders that belong on the path."""
    folders = sorted(PLUGINS.iterdir())
    for folder in folders:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        info = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        named = f"Name: {project['name']}\nVersion: {project['version']}\n"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\n{named}")
        lines = [
            f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())
            for group, entries in project["entry-points"].items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
    return [str(target), *map(str, folders)]


def short(target: Path) -> Path:
    """The settings of a moment of the first row, written to `target`."""
    params = yaml.safe_load(PARAMS.read_text())
    params["learn"] |= SHORT
    params["learn"]["warm_start"] |= {"demos_per_task": 2, "steps": 4}
    label, row = next(iter(params["studies"][STUDY].items()))
    params["studies"][STUDY] = {label: row}
    target.write_text(yaml.safe_dump(params))
    return target


def study(out: Path, params: Path, places: list[str]) -> int:
    """Exit code of the study; what its processes print goes to stderr, because LeRobot prints too."""
    argv = [sys.executable, "-m", "pirl", "bench", "study", STUDY, f"--params={params}"]
    argv += [f"--out={out}", "--no-mlflow"]
    path = os.pathsep.join([*places, str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {"MUJOCO_GL": "egl", **os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(argv, cwd=ROOT, env=env, stdout=sys.stderr).returncode


def passed(records: list[dict[str, Any]]) -> bool:
    """Whether every row kept its bounds; a row that was stopped did not."""
    return all(record.get("passed", False) for record in records)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="run a moment of the first row")
    parser.add_argument("--json", action="store_true", help="records instead of the table")
    parser.add_argument(
        "--out", type=Path, help=f"seen from the repository; default runs/study-{STUDY}"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        places, scratch = install(Path(made) / "site"), Path(made)
        params = short(scratch / "learning.yaml") if args.smoke else PARAMS
        # Relative: where the starting policy lies is part of the config, so of its hash.
        out = args.out or (scratch / "study" if args.smoke else Path("runs") / f"study-{STUDY}")
        code = study(out, params, places)
        if code:
            return code
        records = (ROOT / out / f"{STUDY}.json").read_text()
        print(records if args.json else (ROOT / out / f"{STUDY}.md").read_text(), end="")
        return 0 if args.smoke or passed(json.loads(records)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
