"""Checkpoints that are complete or absent, and a resume that is exact or refused.

Owns the format (docs/checkpoint.md). Refuses to know when to save and who asks. Read in this order:
`manifest`, `atomic`, `layout`, `locate`, `state`, `rng`, `digests`, `record`, `save`, `load`.
"""

from pirl.checkpoint.digests import COMPONENTS, state_digests
from pirl.checkpoint.load import load_checkpoint, verify_files
from pirl.checkpoint.locate import newest_step, resolve_checkpoint
from pirl.checkpoint.manifest import verify_manifest, write_manifest
from pirl.checkpoint.record import MAY_CHANGE, resume_differences
from pirl.checkpoint.save import SavedCheckpoint, save_checkpoint
from pirl.checkpoint.state import RunState

__all__ = [
    "COMPONENTS",
    "MAY_CHANGE",
    "RunState",
    "SavedCheckpoint",
    "load_checkpoint",
    "newest_step",
    "resolve_checkpoint",
    "resume_differences",
    "save_checkpoint",
    "state_digests",
    "verify_files",
    "verify_manifest",
    "write_manifest",
]
