"""One layer of a model: its equations, components in full, the shapes of values, its parameters."""

from __future__ import annotations

from .view import LayerView as LayerView
from .view import data as data
from .view import layer_view as layer_view
from .view import text as text
