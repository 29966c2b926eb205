"""Verifiers of joint graphs and their halves: each fault that is put into one is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moec.compiler.differentiate.policy import KEEP_ALL, KEEP_NONE, Policy
from moec.compiler.differentiate.simplify import simplify
from moec.compiler.differentiate.split import Split, split
from moec.compiler.differentiate.trace import Joint, trace_joint
from moec.compiler.verify.traced import collectives, verify_joint, verify_simplified, verify_split
from moec.runtime.abi import collective_ops  # noqa: F401  (registers the collectives)

from .faults import SPEC, caught, first
from .stages import EIGHT_RANKS, partitioned

ALL_TO_ALL = torch.ops.moec.all_to_all.default


@pytest.fixture
def joint() -> Joint:
    traced = trace_joint(partitioned(SPEC, EIGHT_RANKS))
    simplify(traced.graph)
    return traced


POLICIES = (KEEP_ALL, KEEP_NONE, Policy(("attention",)), Policy(("experts",)))


def halves(joint: Joint, policy: Policy = KEEP_ALL) -> Split:
    return split(joint, policy)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_what_is_right_passes(joint: Joint, policy: Policy) -> None:
    verify_joint(joint)
    verify_simplified(joint, collectives(joint.graph))
    verify_split(halves(joint, policy))


def test_full_recomputation_runs_the_collectives_of_forward_again(joint: Joint) -> None:
    kept, again = halves(joint), halves(joint, KEEP_NONE)

    assert collectives(again.forward) == collectives(kept.forward)
    assert len(collectives(again.backward)) > len(collectives(kept.backward))


def test_a_gradient_of_another_parameter_is_found(joint: Joint) -> None:
    output = joint.graph.output_node()
    returned = list(output.args[0])  # type: ignore[arg-type]
    at = len(joint.region.outputs)
    returned[at + 2] = returned[at]
    output.args = (returned,)

    caught(lambda: verify_joint(joint), "is no gradient of")


def test_a_collective_that_appears_is_found(joint: Joint) -> None:
    before = collectives(joint.graph)[1:]

    caught(lambda: verify_simplified(joint, before), "another order")


def test_collectives_that_change_places_are_found(joint: Joint) -> None:
    before = collectives(joint.graph)

    assert len(set(before)) > 1
    caught(lambda: verify_simplified(joint, before[::-1]), "another order")


def test_an_operation_outside_the_instruction_set_is_found(joint: Joint) -> None:
    node = first(joint.graph, torch.ops.aten.silu.default)
    node.target = torch.ops.aten.mish.default

    caught(lambda: verify_simplified(joint, collectives(joint.graph)), "not in the instruction set")


def test_a_collective_that_no_half_has_is_found(joint: Joint) -> None:
    cut = halves(joint)
    node = first(cut.backward, ALL_TO_ALL)
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    cut.backward.erase_node(node)

    caught(lambda: verify_split(cut), "no half has moec.all_to_all")


def test_a_half_with_a_collective_more_is_found(joint: Joint) -> None:
    cut = halves(joint)
    twice = replace(cut, forward=cut.backward, backward=cut.backward)

    caught(lambda: verify_split(twice), "no half has")
