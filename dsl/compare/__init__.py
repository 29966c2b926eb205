"""Two specifications compared by what they mean: values by path, layers, parameters, weight map.

Specifications of one meaning have no differences, however differently they are written; those of two have at
least one.
"""

from __future__ import annotations

from .compare import Differences as Differences
from .compare import compare as compare
from .facts import facts as facts
from .render import data as data
from .render import text as text
from .values import ValueChange as ValueChange
from .varying import Varying as Varying
from .varying import kinds as kinds
from .varying import varying as varying
from .weights import MapChange as MapChange
