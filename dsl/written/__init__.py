"""A specification -> text of the language again, with every argument in full and every name resolved.

What follows from other values by default (`scale` of an attention, `dims` of a position) is left out where it
is the default. The components are written as the checker takes them: `component(written(x))` equals x.
"""

from __future__ import annotations

from .components import written as written
from .equations import embed_equation as embed_equation
from .equations import equation_text as equation_text
from .equations import head_equation as head_equation
from .equations import norm_name as norm_name
from .memory import memory_texts as memory_texts
from .nodes import NOWHERE as NOWHERE
from .nodes import number as number
from .nodes import setting as setting
from .values import Fact as Fact
from .values import flat as flat
from .values import settings as settings
