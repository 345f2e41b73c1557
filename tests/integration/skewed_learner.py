"""The real learner, of which the second process starts with one other number in one tensor."""

from __future__ import annotations

import torch

from pirl.runtime import learner
from pirl.runtime.seat import own_seat
from pirl.runtime.session import build_session

NAME = "model.transformer.norm.weight"


def build(*arguments, **options):
    session = build_session(*arguments, **options)
    if own_seat().rank == 1:
        with torch.no_grad():
            session.policy.trained_parameters()[NAME].view(-1)[0] += 1e-6
    return session


def main(argv):
    return learner.main(argv, build=build)
