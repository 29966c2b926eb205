"""Every kind of mistake a `.moe` text can hold. Codes are stable: one is never given to another mistake.

01 text and syntax, 02 names, 03 values, 04 model, 05 router and balance, 06 layers, 07 where it runs, 08
training, 09 weight map, 10 config.json, 11 files and overrides, 12 limits, 13 not supported yet.
"""

from __future__ import annotations

from moec.dsl.diagnostics import Kind as Kind

from .checkpoints import BAD_CONFIG_ENTRY as BAD_CONFIG_ENTRY
from .checkpoints import BAD_FORM as BAD_FORM
from .checkpoints import BAD_RULE as BAD_RULE
from .checkpoints import CONFIG_MISMATCH as CONFIG_MISMATCH
from .checkpoints import CONFIG_MISSING as CONFIG_MISSING
from .checkpoints import CONFIG_PATH as CONFIG_PATH
from .checkpoints import CONFIG_UNKNOWN as CONFIG_UNKNOWN
from .checkpoints import CONFIG_VALUE as CONFIG_VALUE
from .checkpoints import INCOMPLETE_TENSOR as INCOMPLETE_TENSOR
from .checkpoints import MAPPED_AND_IGNORED as MAPPED_AND_IGNORED
from .checkpoints import MAPPED_TWICE as MAPPED_TWICE
from .checkpoints import NO_MAP as NO_MAP
from .checkpoints import NO_SUCH_PARAMETER as NO_SUCH_PARAMETER
from .checkpoints import TENSOR_TWICE as TENSOR_TWICE
from .checkpoints import UNMAPPED as UNMAPPED
from .files import BAD_OVERRIDE as BAD_OVERRIDE
from .files import NO_SUCH_MODEL as NO_SUCH_MODEL
from .files import NOT_YET as NOT_YET
from .files import TOO_DEEP as TOO_DEEP
from .files import TOO_LARGE as TOO_LARGE
from .files import UNKNOWN_PATH as UNKNOWN_PATH
from .files import UNREADABLE as UNREADABLE
from .files import USE_CYCLE as USE_CYCLE
from .models import BAD_BALANCE as BAD_BALANCE
from .models import BAD_EMBED as BAD_EMBED
from .models import BAD_EQUATION as BAD_EQUATION
from .models import BAD_GROUPS as BAD_GROUPS
from .models import BAD_HEAD as BAD_HEAD
from .models import BAD_LOCAL as BAD_LOCAL
from .models import BAD_PATTERN as BAD_PATTERN
from .models import BAD_POSITION as BAD_POSITION
from .models import BAD_PRODUCT as BAD_PRODUCT
from .models import BAD_ROUTER as BAD_ROUTER
from .models import EXCLUDED as EXCLUDED
from .models import LAYER_NOT_COVERED as LAYER_NOT_COVERED
from .models import LAYER_OUT_OF_RANGE as LAYER_OUT_OF_RANGE
from .models import MISSING_SETTING as MISSING_SETTING
from .models import NO_EFFECT as NO_EFFECT
from .models import NO_MODEL as NO_MODEL
from .models import NOT_DIVISIBLE as NOT_DIVISIBLE
from .models import PARAMETERS_TWICE as PARAMETERS_TWICE
from .models import TOO_MANY_PARAMETERS as TOO_MANY_PARAMETERS
from .models import TOP_TOO_LARGE as TOP_TOO_LARGE
from .models import VARIES as VARIES
from .runs import BATCH_NOT_MULTIPLE as BATCH_NOT_MULTIPLE
from .runs import FACTOR_OF_NONFINITE as FACTOR_OF_NONFINITE
from .runs import FORMATS_APART as FORMATS_APART
from .runs import MICRO_BATCHES as MICRO_BATCHES
from .runs import NOTHING_TO_REWIND_TO as NOTHING_TO_REWIND_TO
from .runs import SEQUENCE_TOO_LONG as SEQUENCE_TOO_LONG
from .runs import STEPS_AND_EPOCHS as STEPS_AND_EPOCHS
from .runs import TWO_RESTS as TWO_RESTS
from .words import BAD_CHARACTER as BAD_CHARACTER
from .words import BAD_NUMBER as BAD_NUMBER
from .words import CIRCULAR as CIRCULAR
from .words import DUPLICATE as DUPLICATE
from .words import MISPLACED as MISPLACED
from .words import MISSING_ARGUMENT as MISSING_ARGUMENT
from .words import NOT_TEXT as NOT_TEXT
from .words import OPEN_STRING as OPEN_STRING
from .words import OUT_OF_RANGE as OUT_OF_RANGE
from .words import RESERVED as RESERVED
from .words import SYNTAX as SYNTAX
from .words import TOO_MANY_ARGUMENTS as TOO_MANY_ARGUMENTS
from .words import UNCLOSED as UNCLOSED
from .words import UNKNOWN_ARGUMENT as UNKNOWN_ARGUMENT
from .words import UNKNOWN_BLOCK as UNKNOWN_BLOCK
from .words import UNKNOWN_COMPONENT as UNKNOWN_COMPONENT
from .words import UNKNOWN_NAME as UNKNOWN_NAME
from .words import UNKNOWN_SETTING as UNKNOWN_SETTING
from .words import WRONG_TYPE as WRONG_TYPE
from .words import WRONG_UNIT as WRONG_UNIT

ALL: tuple[Kind, ...] = tuple(
    sorted(
        (value for value in list(globals().values()) if isinstance(value, Kind)), key=lambda kind: kind.code
    )
)
BY_CODE: dict[str, Kind] = {kind.code: kind for kind in ALL}
