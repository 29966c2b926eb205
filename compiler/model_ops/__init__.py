"""The operations of a reference graph: what a model is made of, at the level of its paper.

Plain functions on tensors, so that a reference graph runs as it is, on one device, with no collective. They
are traced away when a region is differentiated; what remains are the operations of `moec.runtime.abi`.
"""

from __future__ import annotations

from .attention import attention as attention
from .attention import clip as clip
from .attention import document_positions as document_positions
from .attention import gate_heads as gate_heads
from .attention import log_temperature as log_temperature
from .attention import merge_heads as merge_heads
from .attention import rope as rope
from .attention import share_key as share_key
from .attention import split_dims as split_dims
from .attention import split_heads as split_heads
from .counted import hash_experts as hash_experts
from .counted import jitter as jitter
from .experts import combine as combine
from .experts import dispatch as dispatch
from .experts import expert_add as expert_add
from .experts import expert_mm as expert_mm
from .experts import group_by_expert as group_by_expert
from .experts import identity as identity
from .experts import ones_of_sent as ones_of_sent
from .experts import pad_experts as pad_experts
from .experts import padded_counts as padded_counts
from .experts import sigmoid_gate as sigmoid_gate
from .experts import unpad_experts as unpad_experts
from .experts import weigh_rows as weigh_rows
from .experts import weights_of_sent as weights_of_sent
from .feed_forward import activate as activate
from .feed_forward import clamp_above as clamp_above
from .feed_forward import gated as gated
from .router import best as best
from .router import corrected as corrected
from .router import expert_scale as expert_scale
from .router import in_best_groups as in_best_groups
from .router import kept as kept
from .router import renormalize as renormalize
from .router import room as room
from .router import round_robin as round_robin
from .router import scores_of as scores_of
from .router import sigmoid as sigmoid
from .router import sinkhorn as sinkhorn
from .router import softmax as softmax
from .router import sparsemixer as sparsemixer
from .router import sqrt_softplus as sqrt_softplus
from .router import top as top
from .router import with_room as with_room
from .rows import add as add
from .rows import cast as cast
from .rows import embed as embed
from .rows import layer_norm as layer_norm
from .rows import linear as linear
from .rows import rms_norm as rms_norm
from .statistics import accumulate as accumulate
from .statistics import balance_loss as balance_loss
from .statistics import chunked_cross_entropy as chunked_cross_entropy
from .statistics import cross_entropy as cross_entropy
from .statistics import dropped as dropped
from .statistics import entropy_sum as entropy_sum
from .statistics import expert_load as expert_load
from .statistics import per_token as per_token
from .statistics import probability_sum as probability_sum
from .statistics import sequence_balance_loss as sequence_balance_loss
from .statistics import square_logsumexp_sum as square_logsumexp_sum
from .statistics import weighted_sum as weighted_sum
from .stream import scaled as scaled
from .stream import softcap as softcap
