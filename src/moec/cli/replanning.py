"""The plan of a run for fewer ranks than it was compiled for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path


def replanned_in(out: Path) -> Callable[[Path, int], Path]:
    """(bundle, ranks) -> the same program compiled for so many ranks, in a folder of `out`."""

    def replan(bundle: Path, ranks: int) -> Path:
        from moec.cli.compiling import compile_to

        found, degrees = out / f"bundle-{ranks}", nearest_degrees(bundle, ranks)
        overrides = [f"parallel.{name}={degree}" for name, degree in degrees.items()]
        compile_to(str(bundle / "model.moe"), found, overrides, ranks)
        return found

    return replan


def nearest_degrees(bundle: Path, ranks: int) -> dict[str, int]:
    """The degrees for `ranks` ranks that are nearest to those of a bundle.

    The expert degree comes first, since what a rank holds of the experts is most of its memory; then `shard`.
    """
    from moec.runtime.abi.bundle import read_manifest

    mesh = read_manifest(bundle).mesh
    shard = _nearest(mesh.shard, ranks)
    expert = _nearest(mesh.expert, ranks)
    expert_shard = _nearest(mesh.expert_shard, ranks // expert)
    return {
        "replicate": ranks // shard,
        "shard": shard,
        "expert": expert,
        "expert_shard": expert_shard,
    }


def _nearest(degree: int, ranks: int) -> int:
    """The divisor of `ranks` that is nearest to `degree`; of two, the larger, which takes less memory."""
    return min(_divisors(ranks), key=lambda d: (abs(d - degree), -d))


def _divisors(n: int) -> Iterator[int]:
    return (d for d in range(1, n + 1) if n % d == 0)
