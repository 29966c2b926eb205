"""Small checkpoints of the shipped families, as transformers saves them, and what it computes with them."""

from __future__ import annotations

from .family import SEQUENCE as SEQUENCE
from .family import SEQUENCES as SEQUENCES
from .family import VOCAB as VOCAB
from .family import Family as Family
from .published import Published as Published
from .published import make_model as make_model
from .published import publish as publish
from .table import FAMILIES as FAMILIES
