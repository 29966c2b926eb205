"""What is kept from forward to backward is measured as it was predicted; whatever is kept, no bit changes."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from memory_runs import Outcome, compiled_with, run_step
from moec.compiler.memory.kept import footprint
from moec.compiler.memory.predict import Prediction, predict
from moec.compiler.memory.sizes import Sizes
from moec.compiler.pipeline import Compiled

POLICIES = [
    "recompute = attention",
    "recompute = experts",
    "recompute = layer",
    "recompute = [attention.norm, experts.expert, experts.shared, logits]",
    "recompute = auto(30KB)",
    "gathered = keep",
    "offload = activations(horizon: 1, least: 0B)",
    "recompute = experts, offload = activations(horizon: 2, least: 200B), gathered = keep",
]
DEGREES = {"expert": 2, "shard": 2}
CHANGES = {"layers": "4", "sequences": "6", "micro_batches": "2", "moe": "shared: 1 of swiglu(8),"}
BALANCED = {**CHANGES, "router": "softmax | round_robin(2) | renormalize", "balance": "none"}
"""Of every sequence, all experts get as many tokens."""


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """What only a collector frees is not free."""
    gc.disable()
    yield
    gc.enable()


def same_bits(before: list[Outcome], now: list[Outcome]) -> None:
    """On every rank."""
    for a, b in zip(before, now, strict=True):
        assert all(torch.equal(*pair) for pair in zip(a.results, b.results, strict=True))
        assert a.state.keys() == b.state.keys()
        assert not [name for name, shard in a.state.items() if not torch.equal(shard, b.state[name])]


def test_no_policy_changes_a_bit() -> None:
    """Of losses, loads, the norm of the gradient, and of parameters, gradients and moments after a step."""
    plain = run_step(compiled_with("recompute = none", changes=CHANGES, **DEGREES))
    assert all(torch.isfinite(x).all() for outcome in plain for x in outcome.results)
    for policy in POLICIES:
        same_bits(plain, run_step(compiled_with(policy, changes=CHANGES, **DEGREES)))


@pytest.mark.parametrize(
    "variant", ["jitter", "correction", "latent attention", "ends", "identity and capacity"]
)
def test_no_variant_is_another_the_second_time(variant: str) -> None:
    """Noise of a router, a bias that moves, latent attention, a tied table, choices without room."""
    policy = "recompute = layer, offload = activations(horizon: 1, least: 0B)"
    same_bits(*(run_step(compiled_with(m, variant, **DEGREES)) for m in ("recompute = none", policy)))


@pytest.mark.parametrize("policy", ["recompute = experts, gathered = keep", POLICIES[6]])
def test_halves_are_no_exception(policy: str) -> None:
    """Casts are values like others: the same bits, as many bytes as predicted."""
    changes = {**BALANCED, "compute": "bf16"}
    plain, now = (
        compiled_with(memory, changes=changes, **DEGREES) for memory in ("recompute = none", policy)
    )
    outcomes = run_step(now)
    same_bits(run_step(plain), outcomes)
    peaks = predicted(now)
    assert measured(outcomes) == [(peaks.saved_bytes, peaks.host_bytes)] * len(outcomes)


def measured(outcomes: list[Outcome]) -> list[tuple[int, int]]:
    """Peaks of each rank: saved, on host."""
    return [(max(outcome.held.saved), max(outcome.held.host)) for outcome in outcomes]


def predicted(compiled: Compiled) -> Prediction:
    """For a machine whose host is its device."""
    return predict(compiled.micro_batch, compiled.reference.chain, compiled.footprints, copies_at_once=True)


@pytest.mark.parametrize("degrees", [{}, {**DEGREES, "replicate": 2}], ids=str)
def test_peaks_are_as_predicted_to_the_byte(degrees: dict[str, int]) -> None:
    """At balanced routing, on every rank; every policy keeps less than none does; and no bit changes here."""
    plain = compiled_with("recompute = none", changes=BALANCED, **degrees)
    expected = run_step(plain)
    assert measured(expected) == [(predicted(plain).saved_bytes, 0)] * len(expected)
    for policy in POLICIES:
        compiled = compiled_with(policy, changes=BALANCED, **degrees)
        peaks, outcomes = predicted(compiled), run_step(compiled)
        same_bits(expected, outcomes)
        assert measured(outcomes) == [(peaks.saved_bytes, peaks.host_bytes)] * len(outcomes), policy
        assert peaks.saved_bytes < predicted(plain).saved_bytes or policy == "gathered = keep"
        in_flight = predict(compiled.micro_batch, compiled.reference.chain, compiled.footprints)
        assert in_flight.saved_bytes >= peaks.saved_bytes, "a copy that is under way has its source, too"


def test_rows_that_are_not_balanced_weigh_what_they_weigh() -> None:
    """The prediction is linear in the rows that arrive: what is measured differs by theirs alone."""
    compiled = compiled_with("recompute = none", changes={"layers": "3", "sequences": "4"}, **DEGREES)
    rows = Sizes({"experts": 24})  # 2 sequences of 6 tokens with 2 choices each
    of_row = {
        kind: footprint(region, Sizes({"experts": 25})).kept_bytes - footprint(region, rows).kept_bytes
        for kind, region in compiled.differentiated.items()
    }
    experts = compiled.plan.mesh.expert
    for rank, outcome in enumerate(run_step(compiled)):
        loads = outcome.results[1].view(3, experts, -1).sum(2)  # (layer, rank): all tokens of one micro-batch
        extra = int((loads[:, rank] - 24).sum()) * of_row["layer_0"]
        assert max(outcome.held.saved) == predicted(compiled).saved_bytes + extra
    assert loads.ne(24).any(), "or this shows nothing"


@pytest.mark.parametrize("variant", ["mixtral", "ends"])
def test_the_loss_over_chunks_is_the_loss(variant: str) -> None:
    """One chunk changes the order of one sum, the loss over tokens; several change those of gradients."""
    memory = ("recompute = none", *(f"loss_chunk = {chunk} tokens" for chunk in (1000, 7, 1)))
    (plain, _), (one, _), *more = (run_step(compiled_with(m, variant, **DEGREES)) for m in memory)
    torch.testing.assert_close(one.results[0], plain.results[0], rtol=1e-6, atol=0)
    assert all(torch.equal(one.state[name], shard) for name, shard in plain.state.items())
    for some, _ in more:
        assert torch.equal(some.results[0], one.results[0]), "a token's loss is the same in any chunk"
        torch.testing.assert_close(some.results[2], plain.results[2], rtol=1e-6, atol=0)
        for name, shard in plain.state.items():
            if name.startswith("gradient"):
                scale = float(shard.abs().max())
                torch.testing.assert_close(some.state[name], shard, rtol=0, atol=2e-6 * scale)


def test_no_program_holds_all_logits_where_they_come_in_chunks() -> None:
    """(tokens, words) is the type of no value of the head, forward or backward."""
    for memory, holds in (("recompute = none", True), ("loss_chunk = 4 tokens", False)):
        compiled = compiled_with(memory)
        tokens, words = compiled.reference.shape.tokens, compiled.spec.model.vocab
        types = {
            i.type for half in ("forward", "backward") for i in compiled.programs[f"head.{half}"].instructions
        }
        assert any(f"({tokens}, {words})" in t for t in types) is holds


def test_kept_parameters_are_gathered_once() -> None:
    """And stay until backward has used them; backward of the embedding needs no table."""

    def gathers(memory: str) -> int:
        program = compiled_with(memory, shard=2).programs["micro_batch"]
        return sum(i.op == "moec.shard_gather_start" for i in program.instructions)

    kept = compiled_with("gathered = keep", shard=2)
    assert gathers("gathered = keep") == len(kept.micro_batch.buffers)
    assert gathers("gathered = free") > gathers("gathered = keep")
    needed = [b.numel for name, b in kept.micro_batch.buffers.items() if not name.startswith("embed/")]
    assert predicted(kept).gathered_bytes == sum(needed) * kept.reference.shape.dtype.itemsize
