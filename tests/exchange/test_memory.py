"""Models larger than memory: import and export hold a block of a tensor, logits the weights of one region."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import pytest
from torch import Tensor

from exchange.families import Published
from moec import dsl, models
from moec.cli.exchange import logits as read_out
from moec.cli.exchange.export_hf import export_checkpoint
from moec.cli.exchange.import_hf import import_checkpoint
from moec.cli.exchange.source import region_shapes
from moec.runtime.weights import assemble, stored, strided
from moec.runtime.weights import load as weights_load
from moec.runtime.weights.stored import StoredTensors


class Watch:
    """`most`: elements of all tensors that functions made and that were alive after a call, at most."""

    def __init__(self) -> None:
        self.calls, self.most = 0, 0
        self._alive: dict[int, weakref.ref[Tensor]] = {}

    def watching(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The function, watched."""

        def watched(*args: object) -> Tensor:
            made = function(*args)
            self._alive[id(made)] = weakref.ref(made)
            self._alive = {key: ref for key, ref in self._alive.items() if ref() is not None}
            self.calls += 1
            self.most = max(
                self.most, sum(t.numel() for ref in self._alive.values() if (t := ref()) is not None)
            )
            return made

        return watched


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    """Memory is freed because nobody holds it, not because the collector happens to run."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(("name", "calls"), [("mixtral", 3000), ("granitemoe", 4500)])
def test_import_and_export_hold_a_few_blocks(
    name: str,
    calls: int,
    published: Callable[[str], Published],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two of them, beside one that is being put together: of parameters as they are, and of tensors that hold
    all experts of a layer, which are up to fifty blocks long."""
    block = 1000
    for module, limit in ((weights_load, "BLOCK"), (assemble, "BLOCK"), (strided, "COVER")):
        monkeypatch.setattr(module, limit, block)
    watch = Watch()
    for owner, function in ((StoredTensors, "read"), (StoredTensors, "read_box"), (assemble, "_block")):
        monkeypatch.setattr(owner, function, watch.watching(getattr(owner, function)))
    monkeypatch.setattr(stored, "read_slice", watch.watching(stored.read_slice))
    import_checkpoint(published(name).directory, tmp_path / "imported", find_model=models.read)
    export_checkpoint(tmp_path / "imported", tmp_path / "exported")
    assert watch.calls > calls
    assert watch.most <= 2 * block


def test_logits_hold_the_weights_of_one_region(
    imported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = imported("mixtral")
    regions = region_shapes(dsl.load(source / "model.moe")).values()
    sizes = [sum(map(prod, shapes.values())) for shapes in regions]
    watch = Watch()
    monkeypatch.setattr(read_out, "_read", watch.watching(read_out._read))
    (tmp_path / "ids.json").write_text("[[1, 2, 3]]")
    read_out.logits(source, tmp_path / "ids.json", tmp_path / "logits.safetensors")
    assert watch.most == max(sizes)
