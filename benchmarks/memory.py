"""Memory of a learner process: what is predicted before a run against what the process took.

    python benchmarks/memory.py --json

Per size of the transformer one process builds a learner with random weights, predicts, updates once on decisions
that its own policy made, encodes a publication and saves a checkpoint. Measured is the largest resident size from
then on (VmHWM), predicted the size with the networks built plus the account of `pirl.runtime.memory`. Exit code 1
when the two differ by more than 15 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/train_config_pirl_embedded.json"
SIZES = {
    "small": ("--policy.hidden_size=64", "--policy.depth=2"),
    "middle": ("--policy.hidden_size=512", "--policy.depth=8"),
    "large": ("--policy.hidden_size=1024", "--policy.depth=12"),
}
ROWS, MICRO_BATCH = 64, 32
LIMIT = 0.15
_DEADLINE_S = 1200.0


def main() -> int:
    """Measure every size in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rows", type=int, default=ROWS, help="decisions of the update")
    parser.add_argument(
        "--recompute", type=int, default=0, help="pirl.recompute_activations; default: off"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        sys.stdout.write(json.dumps(measure(args.one, args.rows, args.recompute)) + "\n")
        return 0
    found = [_in_process(size, args.rows, args.recompute) for size in args.sizes]
    if args.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        for row in found:
            sys.stdout.write(_line(row))
    return int(any(row["off"] > LIMIT for row in found))


def _in_process(size: str, rows: int, recompute: int) -> dict[str, Any]:
    argv = [sys.executable, str(Path(__file__)), "--one", size, "--rows", str(rows)]
    argv += ["--recompute", str(recompute)]
    done = subprocess.run(
        argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=_DEADLINE_S, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['size']:<8} {row['trained_values'] / 1e6:6.1f} M trained  built {row['built_mib']:6.0f} MiB  "
        f"predicted {row['predicted_mib']:6.0f}  measured {row['measured_mib']:6.0f}  off {row['off']:.1%}\n"
    )


def measure(size: str, rows: int, recompute: int) -> dict[str, Any]:
    """One size, in this process."""
    import torch

    from pirl.checkpoint.save import save_checkpoint
    from pirl.checkpoint.state import RunState
    from pirl.config.load import load_config
    from pirl.runtime.memory import learner_memory
    from pirl.runtime.session import build_session
    from pirl.transport.wire import encode_parameters

    overrides = [
        *SIZES[size],
        f"--pirl.micro_batch={MICRO_BATCH}",
        f"--pirl.global_batch={MICRO_BATCH}",
        f"--runtime.rollout_chunks={rows}",
        f"--pirl.recompute_activations={recompute}",
    ]
    loaded = load_config(CONFIG, overrides)
    session = build_session(loaded, device="cpu", run_id="memory")
    algorithm = session.algorithm
    algorithm.make_optimizers_and_scheduler()
    account = learner_memory(session, rows=rows, processes=1)
    built = _reset_peak()
    batch = _decisions(session, rows)
    algorithm.update(iter([batch]))
    encode_parameters(algorithm.get_weights(), 1, identity=session.identity)
    with tempfile.TemporaryDirectory() as folder:
        state = RunState(run_id="memory", step=1, policy_version=1, config_path=CONFIG)
        save_checkpoint(
            Path(folder),
            state=state,
            total_steps=1,
            cfg=loaded.cfg,
            flow_policy=session.policy,
            algorithm=algorithm,
        )
    peak = _status("VmHWM")
    predicted = built + account.together
    return {
        "size": size,
        "rows": rows,
        "recompute_activations": recompute,
        "trained_values": sum(p.numel() for p in algorithm.networks.parameters().values()),
        "torch": str(torch.__version__),
        "built_mib": built / 2**20,
        "predicted_mib": predicted / 2**20,
        "measured_mib": peak / 2**20,
        "off": abs(predicted - peak) / peak,
        "parts_mib": {name: value / 2**20 for name, value in asdict(account).items()},
    }


def _decisions(session: Any, rows: int) -> Any:
    """A batch as actors would send it, of observations without content; every fourth decision ends its episode."""
    import torch

    from pirl.algorithm.chain import sample_chunk
    from pirl.records import DecisionBatch, Observation

    policy, cfg = session.policy, session.loaded.cfg
    state = {
        n: torch.zeros(rows, *s.shape[1:], dtype=s.dtype) for n, s in session.schema.state.items()
    }
    every = torch.ones(rows, dtype=torch.int64)
    inputs = {
        name: torch.full((rows, *spec.shape[1:]), spec.low or 0, dtype=spec.dtype)
        for name, spec in policy.inputs.items()
    }
    observation = Observation(
        images={name: value for name, value in state.items() if name != "observation.state"},
        state=state["observation.state"],
        inputs=inputs,
    )
    parts = []
    for start in range(0, rows, 8):
        some = observation.index(slice(start, start + 8))
        parts.append(
            sample_chunk(
                policy,
                policy.encode(some),
                pirl=cfg.pirl,
                noise_head=session.algorithm.noise_head,
                rngs=[torch.Generator().manual_seed(start + row) for row in range(len(some))],
            )
        )
    number = torch.arange(rows)
    ends = number % 4 == 3
    return DecisionBatch(
        observation=observation,
        next_observation=Observation.cat([observation]),
        action=torch.cat([part.chunk for part in parts])[:, : policy.spec.executed_steps],
        reward=(ends & (number % 8 == 3)).float(),
        terminated=ends,
        truncated=torch.zeros_like(ends),
        fields={
            **{n: torch.cat([part.fields[n] for part in parts]) for n in parts[0].fields},
            "pirl_version": every * 0,
            "pirl_episode_id": number // 4,
            "pirl_chunk_idx": number % 4,
            "pirl_valid_steps": every * policy.spec.executed_steps,
            "pirl_group_id": every * -1,
            "is_intervention": every * 0,
        },
        policy_version=0,
    )


def _reset_peak() -> int:
    """Forget the largest resident size so far; the size now, bytes."""
    Path(f"/proc/{os.getpid()}/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(main())
