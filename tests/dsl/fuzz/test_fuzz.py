"""No text makes the language crash, hang, eat memory or contradict itself.

For every text there is a specification or a list of mistakes that can be shown, within limits of time and
memory; formatting is a fixed point and changes neither the meaning nor what is wrong. A text that fails is
reported as small as it can be made.
"""

from __future__ import annotations

from tempfile import NamedTemporaryFile

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import dsl_generated as generated
import fuzz_grammar
from fuzz_checks import bounded, holds, problem, smallest
from fuzz_texts import MAKERS, RICH, some
from moec import dsl
from moec.dsl.spec import Spec

QUICK, BATCH, BATCHES = 1200, 1000, 85
MANY = 250  # examples of hypothesis in one of the long tests

slow = settings(max_examples=MANY, deadline=None, database=None, suppress_health_check=list(HealthCheck))
quick = settings(slow, max_examples=60)


def row(start: int, count: int) -> None:
    """Some of the endless row of texts."""
    for number in range(start, start + count):
        kind, text = some(number)
        error = problem(text)
        if error is not None:
            small = smallest(text, lambda one, error=error: _same(problem(one), error))  # type: ignore[misc]
            pytest.fail(f"text {number} ({kind}): {type(error).__name__}: {error}\n{small!r}")


def _same(error: BaseException | None, other: BaseException) -> bool:
    return type(error) is type(other) and str(error)[:40] == str(other)[:40]


def inside(value: str) -> str:
    """A value in the place of one of a right text."""
    return RICH.replace("heads: 4,", f"heads: {value},", 1)


def overridden(path: str, value: str) -> None:
    """An override with any value gives a specification or mistakes."""
    with bounded():
        try:
            assert isinstance(dsl.load_text(RICH, overrides=[f"{path}={value}"]), Spec)
        except dsl.SourceErrors as errors:
            dsl.render_text(errors.diagnostics)


PATHS = st.sampled_from(
    [
        "width", "layers", "attention", "attention.heads", "attention.rope", "attention.window", "odd", "x",
        "experts.router", "experts.experts", "experts.balance.aux_loss", "experts.router.top", "train.batch",
        "train.optimizer", "logits.tied", "checkpoint", "parallel.expert", "experts.router.groups.keep",
        "latent.rope.factor",
    ]
)  # fmt: skip


# --- in every run ---


@pytest.mark.timeout(120)
def test_mutated_texts() -> None:
    row(0, QUICK)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_is_in_the_row(kind: str) -> None:
    assert kind in {some(number)[0] for number in range(len(MAKERS) * 4)}


@quick
@given(fuzz_grammar.files())
def test_texts_of_the_grammar(text: str) -> None:
    holds(text)


@quick
@given(fuzz_grammar.expressions())
def test_values_of_the_grammar(value: str) -> None:
    holds(inside(value))


@quick
@given(PATHS, fuzz_grammar.expressions())
def test_overrides(path: str, value: str) -> None:
    overridden(path, value)


@quick
@given(generated.models())
def test_legal_models(text: str) -> None:
    holds(text)


@quick
@given(st.binary(max_size=300))
def test_files_of_any_bytes(data: bytes) -> None:
    with NamedTemporaryFile(suffix=".moe") as file:
        file.write(data)
        file.flush()
        with bounded():
            try:
                dsl.load(file.name)
            except dsl.SourceErrors as errors:
                dsl.render_text(errors.diagnostics)


def test_the_checks_find_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """A formatter that changes something, and a checker that raises, eats memory or hangs, are noticed."""
    assert problem(RICH) is None
    monkeypatch.setattr(dsl, "format_text", lambda text: text.replace("swiglu(96", "swiglu(97"))
    assert "changes the meaning" in str(problem(RICH))
    monkeypatch.setattr(dsl, "load_text", lambda *_, **__: bytearray(300 << 20))
    assert isinstance(problem(RICH), MemoryError)
    monkeypatch.setattr(dsl, "load_text", lambda *_, **__: {}["missing"])
    assert isinstance(problem(RICH), KeyError)
    monkeypatch.setattr("fuzz_checks.CPU_LIMIT_S", 0.05)
    monkeypatch.setattr(dsl, "load_text", spin)
    assert "more than" in str(problem(RICH))


def spin(*_: object, **__: object) -> None:
    while True:
        pass


def test_a_failing_text_is_made_small() -> None:
    assert smallest("x" * 100 + "needle" + "y" * 77, lambda text: "needle" in text) == "needle"


# --- the long run: 100_000 texts ---


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("batch", range(BATCHES))
def test_many_mutated_texts(batch: int) -> None:
    row(QUICK + batch * BATCH, BATCH)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("batch", range(20))
def test_many_texts_of_the_grammar(batch: int) -> None:
    @seed(batch)
    @slow
    @given(fuzz_grammar.files())
    def texts(text: str) -> None:
        holds(text)

    @seed(batch)
    @slow
    @given(fuzz_grammar.expressions())
    def values(value: str) -> None:
        holds(inside(value))

    @seed(batch)
    @slow
    @given(generated.models())
    def models(text: str) -> None:
        holds(text)

    texts()
    values()
    models()
