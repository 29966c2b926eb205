"""Paths into a text: `train.sequence`, `experts.router.top`, `experts.experts.width`.

One walk serves reading and writing: `edit` rebuilds the tree around one value. A path names a block and its
setting, or a binding of the model and its argument, and goes on into what the value calls:

    layers                      the number of layers
    experts.experts             the N of `N of f(...)`; further steps are arguments of f
    experts.router.top          the first argument of a stage that needs one, else whether it is there
    experts.router.groups.keep  another argument of a stage
    experts.balance.aux_loss    the coefficient of a loss term, 0 where there is none
    logits.tied                 an argument of the `linear` of the output
    logits.softcap              the limit of the `softcap` around it
"""

from __future__ import annotations

from .edits import edit as edit
from .edits import read as read
from .edits import write as write
from .steps import BY_NAME as BY_NAME
from .steps import Edit as Edit
from .steps import NoPath as NoPath
