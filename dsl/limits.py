"""Every limit of the language, in one place. Past any of them the answer is a located diagnostic."""

from __future__ import annotations

# --- the text ---
FILE_BYTES = 1 << 20
TOKENS = 30_000
NESTING = 32
NAME_LENGTH = 128
STRING_LENGTH = 1024
BAD_CHARACTERS = 20  # runs of them reported before the rest of a text is given up
ARGUMENTS = 64  # of a call
NUMBER_LENGTH = 40  # characters of a literal
NUMBER_EXPONENT = 300  # of ten, in absolute value
NUMBER_BITS = 8192  # of the numerator and the denominator of a product
REFERENCES = 16  # of bindings to one another, in a row: `a = 2 * b`, `b = 2 * c`
ROOT_OF = 10**30
USED_FILES = 32  # files reached by `use`, all together
OVERRIDES = 1_000
DIAGNOSTICS = 200  # kept of one load
DIAGNOSTICS_SHOWN = 30  # of those, as text; the rest is counted

# --- the model ---
LAYERS = 10_000
EQUATIONS = 64  # of a layer
MATCH_ARMS = 256
DECISIONS = 1_000_000  # arms of all matches of a model, times its layers
CHOICES = 100_000  # expressions checked for all choices of all matches
LIST_ITEMS = 10_000
EXPERTS = 65_536
VOCAB = 1 << 24
WIDTH = 1 << 20  # of the residual stream
FFN_WIDTH = 1 << 24
HEADS = 65_536
HEAD_DIM = 65_536
ITERATIONS = 100  # of sinkhorn, each of them some ten instructions of a program
CONTEXT = 1 << 27
PARAMETERS = 10**15  # of the whole model

# --- the run ---
DEGREE = 1 << 20
BATCH_TOKENS = 1 << 40
STEPS = 10**9
MICRO_BATCHES = 65_536
SEED = (1 << 63) - 1
KEPT = 10_000  # checkpoints
BYTES = 1 << 60  # of a budget or a threshold

# --- the weight map ---
TENSORS = 400_000  # parameters, experts one by one
MAP_RULES = 256  # that one statement stands for
MAP_FORMS = 8  # around the name of a tensor
NAMED_IN_MESSAGES = 3  # of the parameters or tensors at fault
