"""What the files and folders of a run are called."""

from __future__ import annotations

METRICS = "metrics.jsonl"
STATUS = "run_status.json"
WEIGHTS = "weights"
MODEL = "model.moe"
CHECKPOINTS = "checkpoints"
PROFILE = "profile"
TENSORBOARD = "tensorboard"
