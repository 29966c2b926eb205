"""Whether an allocation is one for the plan of a bundle, and what is said where it is not."""

from __future__ import annotations

from moec.runtime.abi.manifest import Manifest
from moec.runtime.errors import UserError

from .request import Allocation


def check_ranks(allocation: Allocation, manifest: Manifest, bundle: str) -> None:
    """nodes x ranks a node is the ranks of the bundle. Raises UserError with the equation and the legal."""
    if allocation.ranks == manifest.world:
        return
    near = nearest_shapes(manifest.world, allocation.nodes, allocation.ranks_per_node)
    legal = ", ".join(f"--nodes {nodes} --ranks-per-node {ranks}" for nodes, ranks in near)
    mesh, asked = manifest.mesh, allocation.ranks
    raise UserError(
        f"{allocation.nodes} nodes x {allocation.ranks_per_node} ranks a node = {asked} ranks, and {bundle} "
        f"is for {mesh.world} (replicate {mesh.replicate} x shard {mesh.shard}): {legal}; "
        f"or compile for {asked}, `moec compile ... --ranks {asked}`"
    )


def nearest_shapes(world: int, nodes: int, ranks_per_node: int, most: int = 3) -> list[tuple[int, int]]:
    """The (nodes, ranks a node) that make `world` ranks, nearest to what was asked for first."""
    shapes = [(n, world // n) for n in range(1, world + 1) if world % n == 0]
    by_distance = sorted(shapes, key=lambda s: (abs(s[1] - ranks_per_node), abs(s[0] - nodes)))
    return by_distance[:most]


def check_time(allocation: Allocation) -> None:
    """The signal comes before the end, and after the start. Raises UserError."""
    time_s, lead_s = allocation.time_s, allocation.lead_s
    if time_s is None:
        return
    if allocation.scheduler == "lsf":  # it counts minutes
        time_s, lead_s = time_s // 60 * 60, -(-lead_s // 60) * 60
    if time_s <= lead_s:
        raise UserError(
            f"--time {time_s} s <= --signal-lead {lead_s} s: ranks would be told to stop before they start; "
            f"the nearest legal values are --time {lead_s + 60}s, or --signal-lead {max(1, time_s - 60)}s"
        )


def check_memory(allocation: Allocation, transport: str | None, peak_bytes: int) -> None:
    """The ranks of a node hold no more than is asked for; with NCCL, in GPUs. Raises UserError."""
    asked_mib, ranks = allocation.memory_mib, allocation.ranks_per_node
    needed_mib = -(-ranks * peak_bytes // (1 << 20))
    if asked_mib is not None and transport != "nccl" and asked_mib < needed_mib:
        raise UserError(
            f"--mem {asked_mib}M < {ranks} ranks x {in_words(peak_bytes)}, which a step holds at least: "
            f"give --mem {needed_mib}M or more, or fewer ranks a node"
        )


def memory_line(peak_bytes: int) -> str:
    """What a step holds, for people."""
    return f"memory: a step holds {in_words(peak_bytes)} at once on every rank at least, with its state"


def in_words(size: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:,.4g} {unit}"


def check_gpus(allocation: Allocation, transport: str | None) -> None:
    """NCCL wants a GPU for each rank. Raises UserError."""
    if transport != "nccl":
        return
    gpus = allocation.gpus_per_node
    if gpus is None or gpus < allocation.ranks_per_node:
        raise UserError(
            f"--transport nccl takes one GPU a rank: --ranks-per-node is {allocation.ranks_per_node}, and "
            f"--gpus-per-node is {'not given' if gpus is None else gpus}; give as many"
        )
