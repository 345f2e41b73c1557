"""The flow `phase2-gate`: the steps as tasks, in the order of `pirl.gate.main.run_steps`, then the verdict.

The verdict is the bundle's, recomputed from raw records; Prefect only shows it. A gate that does not pass
raises, so that the flow run is Failed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, State

from pirl.audit.criterion import Verdict
from pirl.gate.main import gate_overrides, run_steps, why_it_ended
from pirl.gate.session import GateFailedError, open_gate
from pirl.gate.track import tracked
from tasks.gate_steps import Progress
from tasks.quiet import tell_in_one_line


@flow(name="phase2-gate", flow_run_name="phase2-gate-{variant}", validate_parameters=True)
def phase2_gate(
    variant: Literal["flow-sde", "flow-noise"] = "flow-sde",
    profile: Literal["auto", "libero", "embedded", "own"] = "auto",
    config: str | None = None,
    out: str | None = None,
) -> State[str]:
    """Run the gate; the final state says the verdict's label, which is the result too.

    Args:
        variant: variant of piRL.
        profile: environment; `auto` takes LIBERO where it can run, `own` that of `config`.
        config: train config of `own`, relative to the repository; nothing of params.yaml is put over it.
        out: bundle folder, relative to the repository; null makes one under `runs/`.

    Raises:
        GateFailedError: the verdict is not "passed".
    """
    tell_in_one_line()
    folder = Path(out) if out else Path("runs") / time.strftime("gate-%Y%m%d-%H%M%S", time.gmtime())
    with (
        open_gate(
            profile=profile,
            variant=variant,
            out=folder,
            launched_by="prefect",
            config=Path(config) if config else None,
            overrides=() if config else gate_overrides(),
        ) as gate,
        tracked(gate, tags={"prefect.flow_run_id": str(runtime.flow_run.id)}) as tracker,
    ):
        bundle = run_steps(gate, tracker, run=Progress(variant).run)
    create_markdown_artifact(
        key=f"gate-{variant}-report",
        markdown=(folder / "report.md").read_text(encoding="utf-8"),
        description=f"{bundle.verdict.label}, bundle digest {bundle.digest}",
    )
    if bundle.verdict.verdict is not Verdict.PASSED:
        why = why_it_ended(gate)
        raise GateFailedError(
            f"phase-2 gate {variant}: {bundle.verdict.label}{why and ', '}{why}; see {folder}/report.md"
        )
    # A run that is only "Completed" would hide a fallback.
    return Completed(message=bundle.verdict.label, data=bundle.verdict.label)
