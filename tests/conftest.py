"""How the tests are shared between processes: a file stays together, and so do the gates.

A checkout runs one gate at a time, and the gates go on from one that all of them share.
"""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    # The mutation runner forks by itself and runs without xdist.
    from xdist.scheduler import LoadFileScheduling

    class GatesTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "gates" if "e2e/test_gate" in nodeid else super()._split_scope(nodeid)

    return GatesTogether(config, log)
