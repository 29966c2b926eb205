"""`config { ... }` of a weight map in use: a `config.json` -> a spec, and a spec -> a `config.json`."""

from __future__ import annotations

from .choosing import spec_from_config as spec_from_config
from .choosing import spec_with_config as spec_with_config
from .exporting import checkpoint_config as checkpoint_config
from .importing import check_config as check_config
from .importing import checkpoint_overrides as checkpoint_overrides
