"""`moec import`, `moec export` and `moec logits`, as they are called, and the codes that they exit with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from exchange.families import Published
from moec.cli.main import run


def test_a_checkpoint_goes_in_and_out_and_is_read_out(
    published: Callable[[str], Published], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = published("olmoe").directory
    imported, exported, out = tmp_path / "imported", tmp_path / "exported", tmp_path / "logits.safetensors"
    ids = tmp_path / "ids.json"
    ids.write_text(str(published("olmoe").ids.tolist()))
    assert run(["import", str(checkpoint), "-o", str(imported)]) == 0
    assert run(["export", str(imported), "--to", str(exported)]) == 0
    assert run(["logits", str(imported), "--ids", str(ids), "-o", str(out)]) == 0
    before, after = (load_file(directory / "model.safetensors") for directory in (checkpoint, exported))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.allclose(load_file(out)["logits"], published("olmoe").logits, rtol=1e-5, atol=1e-5)
    capsys.readouterr()
    assert run(["import", str(checkpoint), "-o", str(imported)]) == 1
    assert "exists already" in capsys.readouterr().err
    weights = imported / "weights" / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert run(["export", str(imported), "--to", str(tmp_path / "again")]) == 76
    assert "head.safetensors" in capsys.readouterr().err
