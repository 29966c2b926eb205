"""A spec with one option of its router, its experts or its losses changed is not what transformers computes.

So parity proves each option of a row. Mutations that nothing shows are told beforehand, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from exchange.families import FAMILIES, Published, comparable
from exchange.mutations import CLEAR, Row, uncovered
from exchange.mutations.mixtures import candidates, has_text, is_legal
from exchange.mutations.page import tables
from exchange.parity import tensors
from moec.dsl import spec as m

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"
MakeRow = Callable[[str], Row]


@pytest.fixture(scope="session")
def row(published: Callable[[str], Published], imported: Callable[[str], Path]) -> MakeRow:
    return cache(lambda name: Row(comparable(imported(name)), tensors(imported(name)), published(name)))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_mutation_shows_but_those_with_a_reason(name: str, row: MakeRow) -> None:
    its, limit = row(name), 1.0
    assert its.apart(its.model) <= limit
    apart = {mutation: its.apart(model) for mutation, model in its.mutants.items()}
    hidden = {mutation for mutation in its.mutants if its.reason(mutation)}
    assert {mutation for mutation, distance in apart.items() if distance <= limit} == hidden
    unclear = {mutation: distance for mutation, distance in apart.items() if limit < distance < CLEAR}
    assert not unclear, "give the row's config values with which this matters"


def test_mutations_are_of_every_option() -> None:
    assert uncovered() == []


NETWORK, NORM = m.Ffn(8), m.RmsNorm(1e-6)
MIXTURES = (
    m.Moe(
        8, m.Ffn(8, bias=True, clamp=1.0, alpha=2.0, offset=1.0), (m.Softmax(), m.Top(1), m.Renormalize()),
        shared=m.SharedExperts(NETWORK, gate=True), weigh="input", router_bias=True,
    ),
    m.Moe(
        8, NETWORK, (m.Sigmoid(), m.CorrectionBias(), m.Groups(4, 2), m.Top(3), m.Renormalize(), m.Scale(2)),
        latent=4, latent_norm=NORM, expert_norm=m.LayerNorm(1e-6),
    ),
    m.Moe(6, m.Ffn(8, "gelu", gated=False), (m.SparseMixer(2),), identity=3),
    m.Moe(
        8, m.Ffn(8, clamp_after=1.0),
        (m.Jitter(0.1), m.Softcap(9.0), m.Top(2), m.Softmax(), m.Capacity(2.0)),
    ),
)  # fmt: skip


@pytest.mark.parametrize("moe", MIXTURES, ids=range(len(MIXTURES)))
def test_a_mutation_is_legal_if_the_checker_takes_its_text(moe: m.Moe) -> None:
    possible = [other for _, other in candidates(moe) if other.experts and other.router]
    legal = [other for other in possible if has_text(other)]
    assert [other for other in possible if is_legal(other)] == legal
    assert 0 < len(legal) < len(possible)


# --- the page ---


def test_the_page_tells_rows_tolerances_and_reasons(
    row: MakeRow, golden: Callable[[str, Path], None]
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables({name: row(name) for name in FAMILIES}).items():
        pattern = re.compile(f"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        assert len(pattern.findall(text)) == 1, name
        text = pattern.sub(lambda found, t=table: f"{found[1]}{t}\n{found[2]}", text)  # type: ignore[misc]
    golden(text, PAGE)
