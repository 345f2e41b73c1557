"""One torch thread: tensors here are tiny, and threads that fight for cores make them slower."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
