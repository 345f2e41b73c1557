"""Scripts from before X-VLA had a package of its own still find what they import."""

from __future__ import annotations

import pytest

from pirl.contract import tiny, xvla
from pirl.policies.xvla import build
from pirl.policies.xvla import tiny as tiny_now


def test_former_places_lead_to_the_present_ones():
    assert tiny.write_tiny_checkpoint is tiny_now.write_tiny_checkpoint
    assert xvla.build_policy is build.build_policy
    with pytest.raises(AttributeError):
        _ = xvla.nothing
