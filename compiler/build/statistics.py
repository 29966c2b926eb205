"""Router statistics on their way through the chain of regions, and the auxiliary losses made of them.

    choices        (E,) int64   choices of each expert, summed over MoE layers            aux_loss(per: model)
    probabilities  (E,)         sums of router probabilities, over MoE layers             aux_loss(per: model)
    aux            ()           this rank's summands of the layers' losses                aux_loss(per: layer)
    sequence_aux   ()           this rank's summands of the layers' losses                sequence_aux_loss
    z              ()           sums of logsumexp^2 over tokens and MoE layers            z_loss

Only what the model's balance terms need is carried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from moec.compiler import model_ops
from moec.compiler.errors import CompileError
from moec.compiler.graph import Builder
from moec.dsl.spec import AuxLoss, BalanceTerm, ModelSpec, Moe, Origin, SequenceAuxLoss, ZLoss

CARRIED_DIFFERENTIABLE = {"probabilities", "aux", "sequence_aux", "z"}


@dataclass(frozen=True)
class Statistics:
    """Which statistics a model carries, and the losses made of them (None: no such loss)."""

    aux: AuxLoss | None
    sequence_aux: SequenceAuxLoss | None
    z: ZLoss | None
    routed: int  # experts, identity ones included, of every layer pooled by aux_loss(per: model)
    pooled_layers: int
    origin: Origin

    @property
    def pooled(self) -> bool:
        """Whether one auxiliary loss is taken over the tokens of all layers."""
        return self.aux is not None and self.aux.per == "model"

    @property
    def over_batch(self) -> bool:
        """Whether choices are counted over the micro-batches so far."""
        return self.aux is not None and self.aux.over == "batch"

    def carried(self, dtype: torch.dtype) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Name -> shape and dtype of every carried statistic."""
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        if self.pooled:
            shapes["choices"] = ((self.routed,), torch.int64)
            shapes["probabilities"] = ((self.routed,), dtype)
        elif self.aux is not None:
            shapes["aux"] = ((), dtype)
        if self.sequence_aux is not None:
            shapes["sequence_aux"] = ((), dtype)
        if self.z is not None:
            shapes["z"] = ((), dtype)
        return shapes

    def start(self, builder: Builder, dtype: torch.dtype) -> dict[str, fx.Node]:
        """Zeros, at the head of the chain."""
        return {
            name: builder.call(torch.zeros, shape, dtype=kind, at=self.origin)
            for name, (shape, kind) in self.carried(dtype).items()
        }

    def finish(
        self,
        builder: Builder,
        loss: fx.Node,
        chain: dict[str, fx.Node],
        facts: dict[str, fx.Node],
        at: Origin,
    ) -> dict[str, fx.Node]:
        """The outputs of the head: the objective and its terms, each as this rank's summand."""
        terms: dict[str, tuple[fx.Node, float]] = {"loss": (loss, 1.0)}
        if self.aux is not None:
            aux = chain["aux"] if not self.pooled else self._pooled_loss(builder, chain, facts)
            terms["aux_loss"] = (aux, self.aux.coefficient)
        if self.sequence_aux is not None:
            terms["sequence_aux_loss"] = (chain["sequence_aux"], self.sequence_aux.coefficient)
        if self.z is not None:
            z = builder.call(model_ops.per_token, chain["z"], facts["batch_tokens"], at=self.z.origin)
            terms["z_loss"] = (z, self.z.coefficient)
        nodes, coefficients = [node for node, _ in terms.values()], [c for _, c in terms.values()]
        objective = builder.call(model_ops.weighted_sum, nodes, coefficients, at=at)
        return {"objective": objective, **{name: node for name, (node, _) in terms.items()}}

    def _pooled_loss(self, builder: Builder, chain: dict[str, fx.Node], facts: dict[str, fx.Node]) -> fx.Node:
        assert self.aux is not None
        return builder.call(
            model_ops.balance_loss,
            chain["choices"],
            chain["probabilities"],
            self.pooled_layers,
            facts["seen_tokens" if self.over_batch else "micro_tokens"],
            facts["batch_tokens"],
            at=self.aux.origin,
        )


def statistics_of(model: ModelSpec) -> Statistics:
    """What the balance terms of a model's MoE layers ask for; they have to agree."""
    calls = (call.component for layer in model.layers for call in layer.calls())
    balanced = [(moe, term) for moe in calls if isinstance(moe, Moe) for term in moe.balance]
    aux = [(moe, term) for moe, term in balanced if isinstance(term, AuxLoss)]
    sequence_aux = [term for _, term in balanced if isinstance(term, SequenceAuxLoss)]
    z = [term for _, term in balanced if isinstance(term, ZLoss)]
    for terms in ([term for _, term in aux], sequence_aux, z):
        _check_equal(terms)
    if aux and aux[0][1].per == "model" and len({moe.routed for moe, _ in aux}) > 1:
        raise CompileError(
            "aux_loss pools all MoE layers, so they need the same number of experts",
            aux[0][1].origin,
            "per: layer",
        )
    return Statistics(
        aux=aux[0][1] if aux else None,
        sequence_aux=sequence_aux[0] if sequence_aux else None,
        z=z[0] if z else None,
        routed=aux[0][0].routed if aux else 0,
        pooled_layers=len(aux),
        origin=model.origin,
    )


def _check_equal(terms: Sequence[BalanceTerm]) -> None:
    for term in terms:
        if term != terms[0]:
            raise CompileError("not supported yet: balance terms that differ between layers", term.origin)
