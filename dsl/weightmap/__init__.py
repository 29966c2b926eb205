"""The weight map: rules over parameter names -> the tensors of a published checkpoint, proved a bijection.

    layers[i].attention.{q,k,v,o}         = "h.{i}.attn.{}_proj.weight"
    layers[i].experts.expert[e].{gate,up} = stack(e, transpose(interleave("h.{i}.mlp.gate_up_proj")))

A rule covers all parameters of some *shapes of name*, their numbers left out
(`layers.#.experts.expert.#.gate`), so a parameter finds its rule by one look-up. What is proved is proved for
all experts of a layer at once: a model of 70 000 tensors is mapped in milliseconds.
"""

from __future__ import annotations

from .blanks import map_blanks as map_blanks
from .groups import map_tensors as map_tensors
from .possible import possible_shapes as possible_shapes
from .possible import report_impossible as report_impossible
from .rules import Rule as Rule
from .rules import index_rules as index_rules
from .rules import read_rule as read_rule
from .unique import report_collisions as report_collisions
from .unique import report_ignored as report_ignored
