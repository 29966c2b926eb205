"""Small checkpoints of families, as transformers saves them, and what it computes with them."""

from __future__ import annotations

from .family import SEQUENCE as SEQUENCE
from .family import SEQUENCES as SEQUENCES
from .family import UNSHIPPED as UNSHIPPED
from .family import VOCAB as VOCAB
from .family import Family as Family
from .published import Published as Published
from .published import comparable as comparable
from .published import make_model as make_model
from .published import publish as publish
from .published import read_in as read_in
from .table import FAMILIES as FAMILIES
