"""`train { ... }` -> `TrainSpec`."""

from __future__ import annotations

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.data import read_documents, read_validation
from moec.dsl.check.numerics import check_rewinds, read_nonfinite, read_spike
from moec.dsl.check.saving import checkpointing
from moec.dsl.check.settings import Settings, settings_of
from moec.dsl.check.values import EMPTY, is_none, quantity, real, short, whole, wrong_type
from moec.dsl.diagnostics import Diagnostic, DiagnosticBag, Mistake
from moec.dsl.quantities import group
from moec.dsl.vocabulary import DEFAULT_SEQUENCE, DEFAULT_STEPS

DEFAULT_BATCH_SEQUENCES = 8


def check_train(block: s.Block | None, context: int, bag: DiagnosticBag) -> m.TrainSpec:
    """How the model is trained; `context` is the longest sequence it takes."""
    found = settings_of(block, "train", bag)
    sequence = _sequence(found, context)
    batch = found.read("batch", lambda e: _batch(e, sequence), DEFAULT_BATCH_SEQUENCES * sequence)
    steps, epochs = _length(found)
    train = m.TrainSpec(
        sequence=sequence,
        batch_tokens=batch,
        steps=steps,
        epochs=epochs,
        micro_batches=found.read("micro_batches", lambda e: _micro_batches(e, batch // sequence), 1),
        optimizer=found.read("optimizer", lambda e: _optimizer(e, bag), m.AdamW()),
        schedule=found.read("schedule", lambda e: _schedule(e, bag), m.Cosine()),
        clip=found.read("clip", lambda e: None if is_none(e) else real(e, "clip"), 1.0),
        seed=found.read("seed", lambda e: whole(e, "seed", limits.SEED, 0), 0),
        checkpoint=found.read("checkpoint", lambda e: checkpointing(e, bag), None),
        nonfinite=found.read("nonfinite", lambda e: read_nonfinite(e, bag), m.OnNonfinite()),
        spike=found.read("spike", lambda e: read_spike(e, bag), m.OnSpike()),
        documents=found.read("documents", read_documents, "joined"),
        validation=found.read("validation", lambda e: read_validation(e, bag), None),
        origin=found.origin(),
    )
    check_rewinds(found, train)
    return train


def _sequence(found: Settings, context: int) -> int:
    default = min(context, DEFAULT_SEQUENCE)
    return found.read("sequence", lambda e: _sequence_of(e, context), default)


def _sequence_of(expr: s.Expr, context: int) -> int:
    sequence = whole(expr, "sequence", limits.CONTEXT, prefix_of_tokens=True)
    if sequence > context:
        label = f"sequence = {group(sequence)} exceeds the model's context = {group(context)}"
        raise Mistake(c.SEQUENCE_TOO_LONG.at(expr.span, label, advice=f"at most {group(context)}"))
    return sequence


def _batch(expr: s.Expr, sequence: int) -> int:
    """Tokens of the global batch."""
    found = quantity(expr, EMPTY, "batch, a number of tokens or sequences")
    if found.unit:
        raise Mistake(c.WRONG_UNIT.at(expr.span, "batch counts `tokens` or `sequences`"))
    in_sequences = isinstance(expr, s.Number) and expr.word == "sequences"
    tokens = found.tokens * (sequence if in_sequences else 1)
    if tokens.denominator != 1:
        raise wrong_type(expr, "batch, a whole number")
    if not 1 <= tokens <= limits.BATCH_TOKENS:
        bounds = f"1 <= batch <= {group(limits.BATCH_TOKENS)} tokens"
        raise Mistake(c.OUT_OF_RANGE.at(expr.span, f"batch = {short(tokens)} tokens breaks {bounds}"))
    if tokens % sequence:
        raise Mistake(_not_multiple(expr, int(tokens), sequence))
    return int(tokens)


def _not_multiple(expr: s.Expr, tokens: int, sequence: int) -> Diagnostic:
    below, above = tokens // sequence, tokens // sequence + 1
    legal = [
        f"{group(n * sequence)} ({group(n)} sequence{'s' if n > 1 else ''})" for n in (below, above) if n
    ]
    label = f"batch = {group(tokens)} tokens is not a multiple of sequence = {group(sequence)}"
    return c.BATCH_NOT_MULTIPLE.at(expr.span, label, advice="nearest: " + " or ".join(legal))


def _length(found: Settings) -> tuple[int | None, int | None]:
    """(steps, epochs), exactly one of them set."""
    epochs = found.read("epochs", lambda e: None if is_none(e) else whole(e, "epochs", limits.STEPS), None)
    if epochs is None:
        return found.read("steps", lambda e: whole(e, "steps", limits.STEPS), DEFAULT_STEPS), None
    if found.has("steps"):
        label = "give `steps` or `epochs`, not both"
        found.bag.add(c.STEPS_AND_EPOCHS.at(found.span("epochs"), label))
    return None, epochs


def _micro_batches(expr: s.Expr, sequences: int) -> int:
    count = whole(expr, "micro_batches", limits.MICRO_BATCHES)
    if sequences % count:
        label = f"micro_batches = {count} does not divide the {group(sequences)} sequences of a batch"
        raise Mistake(c.MICRO_BATCHES.at(expr.span, label))
    return count


def _optimizer(expr: s.Expr, bag: DiagnosticBag) -> m.AdamW:
    construct, call = callee(expr, ("optimizer",), "an optimizer, `adamw(...)`")
    args = bind(construct, call, bag)
    default = m.AdamW()
    return m.AdamW(
        lr=args.read("lr", lambda e: real(e, "lr", high=1e3), default.lr),
        betas=args.read("betas", _betas, default.betas),
        eps=args.read("eps", lambda e: real(e, "eps", high=1.0), default.eps),
        weight_decay=args.read(
            "weight_decay", lambda e: real(e, "weight_decay", high=1e3, low_open=False), default.weight_decay
        ),
        origin=expr.span.origin(),
    )


def _betas(expr: s.Expr) -> tuple[float, float]:
    if not isinstance(expr, s.TupleOf | s.ListOf) or len(expr.items) != 2:
        raise wrong_type(expr, "betas, two numbers such as `(0.9, 0.95)`")
    first, second = (real(item, "beta", 0.0, 1.0, low_open=False, high_open=True) for item in expr.items)
    return first, second


def _schedule(expr: s.Expr, bag: DiagnosticBag) -> m.Schedule:
    construct, call = callee(expr, ("schedule",), "a schedule, `cosine(...)` or `constant(...)`")
    args = bind(construct, call, bag)
    warmup = args.read("warmup", lambda e: whole(e, "warmup", limits.STEPS, 0), 0)
    if construct.name == "constant":
        return m.Constant(warmup, expr.span.origin())
    floor = args.read("floor", lambda e: real(e, "floor", 0.0, 1.0, low_open=False), 0.0)
    return m.Cosine(warmup, floor, expr.span.origin())
