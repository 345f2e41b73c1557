"""How the tests are shared between processes: a file stays together, and so do the gates.

A checkout runs one gate at a time, and the gates go on from one that all of them share.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest

# Before torch is imported. Tiny networks are slower on two threads: the contract tests take 92 CPU
# seconds instead of 25.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Until all is imported and collected nearly every object stays: to look for others costs a tenth of that time.
gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.enable()
    # What the libraries made stays for good: the collector need not visit a million objects again in
    # every test (10 % of the CPU time). Only in a worker: the mutation runner looks for functions.
    if hasattr(session.config, "workerinput"):
        gc.collect()
        gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    # The mutation runner forks by itself and runs without xdist.
    from xdist.scheduler import LoadFileScheduling

    class GatesTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "gates" if "e2e/test_gate" in nodeid else super()._split_scope(nodeid)

    return GatesTogether(config, log)
