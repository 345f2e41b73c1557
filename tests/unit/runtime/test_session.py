"""What a run that cannot work is told before anything starts."""

from __future__ import annotations

import pytest

from pirl.config.load import load_config
from pirl.errors import ConfigError
from pirl.runtime.session import build_session

CONFIG = "configs/train_config_pirl_embedded.json"


def test_a_run_that_needs_demonstrations_is_refused_before_it_collects():
    overrides = ["--pirl.bc_weight=0.1", "--dataset.repo_id=someone/demos"]
    loaded = load_config(CONFIG, overrides)
    with pytest.raises(ConfigError) as refused:
        build_session(loaded, device="cpu", run_id="")
    (error,) = refused.value.errors
    assert error.field == "pirl.bc_weight"
    assert "demo_batches" in error.fix
