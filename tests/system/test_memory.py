"""Under mpirun: whatever is kept for backward, and wherever, a run computes the same bits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from moec import models
from moec.compiler.emit.bundle import save
from moec.compiler.pipeline import compile_spec
from moec.dsl import load
from mpi_job import job
from system.test_layouts import MODEL

SCRIPT = Path(__file__).with_name("layout_job.py")
STEPS = 3
RANKS = ["parallel.shard=2", "parallel.replicate=2", "parallel.expert=2", "layers=3"]
MEMORY = {
    "none": [],
    "experts": ["memory.recompute=experts", "memory.gathered=keep"],
    "layer": ["memory.recompute=layer", "memory.offload=activations(horizon: 1, least: 0B)"],
    "named": [
        "memory.recompute=[attention.norm, experts.expert, experts.router]",
        "memory.offload=activations(horizon: 2, least: 1KiB)",
        "memory.gathered=keep",
    ],
}


def _weights(folder: Path) -> dict[str, str]:
    """Digest of every file of saved weights."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.mpi
@pytest.mark.slow
def test_no_policy_changes_a_bit_on_four_ranks(tmp_path: Path) -> None:
    """Three steps of two micro-batches: losses, and the weights after them, byte by byte."""
    plan = []
    for name, sets in MEMORY.items():
        out = tmp_path / name
        out.mkdir()
        compiled = compile_spec(load("tiny", [*MODEL, *RANKS, *sets], models.read))
        assert name == "none" or compiled.spec.memory.recompute != "none"
        save(compiled, out / "bundle")
        plan.append({"bundle": str(out / "bundle"), "out": str(out), "steps": STEPS})
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    result = job(4, [SCRIPT, tmp_path / "plan.json", "mpi"], timeout_s=240)
    assert result.rc == 0, result.output

    found = {name: json.loads((tmp_path / name / "result.json").read_text()) for name in MEMORY}
    assert len(found["none"]["losses"]) == STEPS
    for name in MEMORY:
        assert found[name]["losses"] == found["none"]["losses"]
        assert _weights(tmp_path / name / "final") == _weights(tmp_path / "none" / "final")
    assert _weights(tmp_path / "none" / "final") != _weights(tmp_path / "none" / "initial")
