"""`ModelSpec` and its neighbours: what a checked `.moe` file means.

Everything here is frozen, typed and complete: every default is filled in, every name is resolved, every size
is known to be legal. Later stages read these classes and never the syntax tree.

Each node carries the `Origin` it came from. Origins do not take part in equality, so two layers that compute
the same thing compare equal wherever they were written; the compiler uses that to compile each kind of layer
once.
"""

from __future__ import annotations

from dataclasses import dataclass

from .checkpoint import Blanks as Blanks
from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import ConfigArm as ConfigArm
from .checkpoint import ConfigEntry as ConfigEntry
from .checkpoint import ConfigScalar as ConfigScalar
from .checkpoint import ConfigValue as ConfigValue
from .checkpoint import FileTensor as FileTensor
from .checkpoint import Form as Form
from .checkpoint import TensorGroup as TensorGroup
from .components import Activation as Activation
from .components import Attend as Attend
from .components import DynamicNtk as DynamicNtk
from .components import Ffn as Ffn
from .components import Gqa as Gqa
from .components import LayerNorm as LayerNorm
from .components import LinearScaling as LinearScaling
from .components import Llama3Scaling as Llama3Scaling
from .components import LogTemperature as LogTemperature
from .components import LongRope as LongRope
from .components import Mla as Mla
from .components import Norm as Norm
from .components import NormWeight as NormWeight
from .components import NtkAlpha as NtkAlpha
from .components import OutputGate as OutputGate
from .components import QkNorm as QkNorm
from .components import RmsNorm as RmsNorm
from .components import Rope as Rope
from .components import RopeScaling as RopeScaling
from .components import Yarn as Yarn
from .data import Documents as Documents
from .data import Evaluated as Evaluated
from .memory import Gathered as Gathered
from .memory import MemorySpec as MemorySpec
from .memory import Offload as Offload
from .memory import Recompute as Recompute
from .memory import RecomputeAuto as RecomputeAuto
from .memory import RecomputeNames as RecomputeNames
from .memory import RecomputeWord as RecomputeWord
from .model import Call as Call
from .model import Component as Component
from .model import Embed as Embed
from .model import Equation as Equation
from .model import Expression as Expression
from .model import Head as Head
from .model import Layer as Layer
from .model import ModelSpec as ModelSpec
from .model import Scaled as Scaled
from .model import Sum as Sum
from .model import Var as Var
from .model import calls as calls
from .origin import NOWHERE as NOWHERE
from .origin import Origin as Origin
from .routing import AuxLoss as AuxLoss
from .routing import BalanceTerm as BalanceTerm
from .routing import Capacity as Capacity
from .routing import Chooser as Chooser
from .routing import CorrectionBias as CorrectionBias
from .routing import ExpertScale as ExpertScale
from .routing import Groups as Groups
from .routing import Hash as Hash
from .routing import Jitter as Jitter
from .routing import Moe as Moe
from .routing import Renormalize as Renormalize
from .routing import RoundRobin as RoundRobin
from .routing import RouterStage as RouterStage
from .routing import Scale as Scale
from .routing import SequenceAuxLoss as SequenceAuxLoss
from .routing import SharedExperts as SharedExperts
from .routing import Sigmoid as Sigmoid
from .routing import Sinkhorn as Sinkhorn
from .routing import Softcap as Softcap
from .routing import Softmax as Softmax
from .routing import SparseMixer as SparseMixer
from .routing import SqrtSoftplus as SqrtSoftplus
from .routing import Top as Top
from .routing import ZLoss as ZLoss
from .training import AdamW as AdamW
from .training import Checkpointing as Checkpointing
from .training import Constant as Constant
from .training import Cosine as Cosine
from .training import Dispatch as Dispatch
from .training import DType as DType
from .training import OnNonfinite as OnNonfinite
from .training import OnSpike as OnSpike
from .training import ParallelSpec as ParallelSpec
from .training import PrecisionSpec as PrecisionSpec
from .training import Schedule as Schedule
from .training import TrainSpec as TrainSpec


@dataclass(frozen=True)
class Spec:
    """A whole checked file, `use`d files included.

    `text` is its resolved source, overrides applied: one self-contained `.moe` text.
    """

    model: ModelSpec
    parallel: ParallelSpec
    precision: PrecisionSpec
    memory: MemorySpec
    train: TrainSpec
    checkpoint: Checkpoint | None
    text: str
