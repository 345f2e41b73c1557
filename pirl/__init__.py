"""piRL for LeRobot's X-VLA, with an auditable phase-2 gate."""

__version__ = "0.1.0"
