"""Texts to fuzz the language with, each a function of a random number generator.

    tokens(random.Random(7))    the same text on every machine

Most start from texts that are right, so that faults lie deep: in arguments, patterns, weight maps.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from functools import cache

from dsl_texts import SMALL
from moec import models
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.source import SourceText
from moec.dsl.tokens import Token, tokenize
from moec.dsl.vocabulary import BLOCKS, CONSTRUCTS

Make = Callable[[random.Random], str]

RICH = """\
model rich {
    vocab = 320, width = 64, context = 128
    half = 0.5, depth = 6, some = [0, 3], odd = every(2)
    norm = rms_norm(eps: 1e-5, weight: offset)
    attention = gqa(heads: 4, window: match layer { odd => none, _ => 16 }, qk_norm: per_head(norm))
    latent = mla(heads: 2, kv_rank: 16, nope_dim: 8, rope_dim: 8, v_dim: 8, sinks: true,
                 rope: yarn(factor: 4, original: 32))
    dense = swiglu(96, clamp: 7, alpha: 1.7, offset: 1)
    experts = moe(
        experts: 8 of swiglu(32), shared: 1 of swiglu(32), router_bias: true,
        router: jitter(0.1) | sigmoid | correction_bias(update: 0.001) | groups(4, keep: 2) | top(2)
            | renormalize | scale(2.5) | capacity(2),
        balance: aux_loss(0.01, per: layer) + z_loss(0.001),
    )
    x = sqrt(width) * norm(embed(tokens))
    layers depth {
        h = norm(x)
        x += match layer { 0..2 => attention, some => latent, _ => attention }(h)
        x += half * experts(h) + dense(h) / 8
    }
    logits = softcap(linear(norm(x), tied: true), 30)
}
parallel { expert = 2, shard = rest }
train { batch = 8 sequences, optimizer = adamw(lr: 3e-4), schedule = constant(warmup: 10), clip = none }
"""
NUMBERS = (
    "0", "-1", "1", "2", "0.5", "1e-300", "1e300", "9" * 40, "9" * 41, "1e301", "-0.0", "1_0", "1__0", "4M",
    "80GiB", "1_000P", "0x10", "1e", "1.", "99999999999999999999", "65_536", "65_537", "10_000", "10_001",
    "1 / 3", "sqrt(2)", "1e9 * 1e9", "2 / 0", "4M tokens", "8 sequences", "3K tokens",
)  # fmt: skip
WORDS = (
    *CONSTRUCTS, *BLOCKS, *(param.name for one in CONSTRUCTS.values() for param in one.params), "none",
    "true",
    "false", "rest", "_", "x", "h", "layer", "layers", "model", "checkpoint", "config", "use", "match", "of",
    "else", "norm", "attention", "experts", "tokens", "i", "e", "tiny", "concat", "interleave", "stack",
    "transpose",
)  # fmt: skip
SIGNS = (
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "|",
    "+",
    "*",
    "/",
    "=",
    "+=",
    "=>",
    "..",
    ".",
    ":",
    ",",
    "\n",
    '"',
    "#",
)


@cache
def sources() -> tuple[str, ...]:
    """Texts that are right: small ones often, every shipped one."""
    shipped = [found[1] for name in models.names() if (found := models.read(name))]
    alone = [text.partition("checkpoint ")[0] for text in shipped]  # the model without its weight map
    return (*[SMALL, RICH, shipped[models.names().index("tiny")]] * 8, *alone * 2, *shipped)


@cache
def pieces(text: str) -> tuple[Token, ...]:
    """The tokens of a text."""
    return tokenize(SourceText("<fuzz>", text), DiagnosticBag()).tokens


def _rewritten(text: str, changes: dict[int, str]) -> str:
    """The text with some of its tokens replaced."""
    parts, position = [], 0
    for index, token in enumerate(pieces(text)):
        if index in changes:
            parts += [text[position : token.span.start], changes[index]]
            position = token.span.end
    return "".join([*parts, text[position:]])


# --- kinds of texts ---


def tokens(rng: random.Random) -> str:
    """A right text with tokens left out, doubled, swapped or replaced."""
    text = rng.choice(sources())
    found = pieces(text)
    changes: dict[int, str] = {}
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        index = rng.randrange(len(found))
        own, other = found[index].text, found[rng.randrange(len(found))].text
        changes[index] = rng.choice(
            (
                "",
                own + " " + own,
                other,
                own + " " + other,
                rng.choice(WORDS),
                rng.choice(SIGNS),
                rng.choice(NUMBERS),
            )
        )
    return _rewritten(text, changes)


def swaps(rng: random.Random) -> str:
    """A right text in which two tokens of one kind, or two neighbours, have changed places."""
    text = rng.choice(sources())
    found = pieces(text)
    changes: dict[int, str] = {}
    for _ in range(rng.choice((1, 1, 2, 4))):
        one = rng.randrange(len(found) - 1)
        alike = [i for i, token in enumerate(found) if token.kind == found[one].kind]
        other = rng.choice((one + 1, rng.choice(alike)))
        changes[one], changes[other] = found[other].text, found[one].text
    return _rewritten(text, changes)


def numbers(rng: random.Random) -> str:
    """A right text with absurd numbers."""
    text = rng.choice(sources())
    found = [i for i, token in enumerate(pieces(text)) if token.kind == "NUMBER"]
    chosen = rng.sample(found, min(len(found), rng.choice((1, 1, 2, 3))))
    return _rewritten(text, {index: rng.choice(NUMBERS) for index in chosen})


def lines(rng: random.Random) -> str:
    """A right text with lines left out, doubled, moved, or taken from another."""
    found = rng.choice(sources()).split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(found))
        stop = min(len(found), start + rng.choice((1, 1, 2, 6)))
        block = found[start:stop]
        match rng.randrange(4):
            case 0:
                del found[start:stop]
            case 1:
                found[start:start] = block
            case 2:
                del found[start:stop]
                place = rng.randrange(len(found) + 1)
                found[place:place] = block
            case _:
                other = rng.choice(sources()).split("\n")
                place = rng.randrange(len(other))
                found[start:stop] = other[place : place + rng.choice((1, 2, 6))]
        if not found:
            break
    return "\n".join(found)


def characters(rng: random.Random) -> str:
    """A right text with characters left out, put in or replaced."""
    text = list(rng.choice(sources()))
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place = rng.randrange(len(text) + 1)
        new = rng.choice((*string.printable, *SIGNS, "", "é", "\x00", "\u2028", "\ufeff", "\ud800", "🜛"))
        text[place : place + rng.choice((0, 1, 1, 3))] = [new]
    return "".join(text)


def words(rng: random.Random) -> str:
    """Words, signs and numbers of the language in no order."""
    alphabet = (*WORDS, *SIGNS, *SIGNS, *NUMBERS)
    return " ".join(rng.choice(alphabet) for _ in range(rng.choice((1, 3, 10, 40, 200))))


def noise(rng: random.Random) -> str:
    """Bytes, as far as they are text."""
    data = rng.randbytes(rng.choice((0, 1, 10, 100, 1000)))
    return data.decode(rng.choice(("latin-1", "utf-16", "utf-8")), rng.choice(("replace", "ignore")))


_INNER = ("x", "norm(x)", "1", "[]", "none", '"a"', "swiglu(1)", "0..3", "every(2)")
_NESTINGS = (
    ("(", ")"), ("[", "]"), ("norm(", ")"), ("f(a: ", ")"), ("match layer { _ => ", " }"), ("2 of ", ""),
    ("1 + (", ")"), ("1 * (", ")"), ("a | (", ")"), ("match layer { 0 => x, _ => ", " }(x)"), ("sqrt(", ")"),
    ("[1, ", "]"), ("per_head(", ")"), ("stack(e, ", ")"), ("(1, ", ")"), ("layers 2 { x += ", " }"),
)  # fmt: skip


def nested(rng: random.Random) -> str:
    """A value nested deeper and deeper, at some place of a right text."""
    inner = rng.choice(_INNER)
    opening, closing = rng.choice(_NESTINGS)
    depth = rng.choice((2, 5, 20, 60, 63, 64, 65, 200, 3000))
    value = opening * depth + inner + (closing * depth if rng.random() < 0.8 else "")
    text = rng.choice(sources()[:24])
    found = pieces(text)
    places = [i for i, token in enumerate(found) if token.kind in ("EQ", "COLON", "PIPE", "ARROW", "PLUSEQ")]
    place = rng.choice(places)
    return _rewritten(text, {place: f"{found[place].text} {value}" + rng.choice(("", "\n", ", "))})


def long(rng: random.Random) -> str:
    """A text with something in it very many times."""
    unit = rng.choice(
        (
            "1, ",
            "a = 1\n",
            "x += norm(x)\n",
            " | softmax",
            " + norm(x)",
            "_ => 1\n",
            "heads: 4, ",
            "# c\n",
            "\n",
            "a.",
            "(",
            "}",
        )
    )
    text = rng.choice(sources()[:24])
    place = rng.choice(pieces(text)).span.end
    return text[:place] + unit * rng.choice((10, 300, 3000)) + text[place:]


def layered(rng: random.Random) -> str:
    """A model whose values differ by layer in ways of all kinds."""
    patterns = (
        "odd",
        "some",
        "0",
        "0..3",
        "[1, 5]",
        "every(3)",
        "every(2, offset: 0)",
        "_",
        "depth",
        "7",
        "3..1",
        "h",
    )

    def value(depth: int, kind: str) -> str:
        if depth and rng.random() < 0.6:
            arms = [f"{rng.choice(patterns)} => {value(depth - 1, kind)}" for _ in range(rng.randrange(1, 4))]
            return f"match layer {{ {', '.join([*arms, f'_ => {value(depth - 1, kind)}'])} }}"
        return rng.choice(
            {
                "number": ("16", "none", "half", "0", "depth * 2"),
                "rope": ("none", "rope", "yarn(factor: 2, original: 8)"),
            }[kind]
        )

    text = RICH.replace("match layer { odd => none, _ => 16 }", value(3, "number"))
    return text.replace("heads: 4,", f"heads: 4, rope: {value(2, 'rope')}, softcap: {value(2, 'number')},", 1)


def weight_maps(rng: random.Random) -> str:
    """A published weight map with other names of tensors, forms and alternatives."""
    shipped = [text for text in sources() if "checkpoint " in text]
    text = rng.choice(shipped)
    found = pieces(text)
    start = next(i for i, token in enumerate(found) if token.text == "checkpoint")
    strings = [i for i in range(start, len(found)) if found[i].kind == "STRING"]
    holes = ("{i}", "{e}", "{}", "{j}", "{", "0", "", "a", "{i}{e}", "..")
    changes: dict[int, str] = {}
    for _ in range(rng.choice((1, 1, 2, 3))):
        index = rng.choice(strings)
        name = found[index].text
        match rng.randrange(4):
            case 0:
                form = rng.choice(("stack", "concat", "interleave", "transpose", "f"))
                changes[index] = f"{form}({rng.choice(('', 'e, ', 'i, ', '2, '))}{name})"
            case 1:
                changes[index] = name.replace(rng.choice(holes) or "{", rng.choice(holes))
            case 2:
                changes[index] = found[rng.choice(strings)].text
            case _:
                other = rng.randrange(start, len(found))
                changes[other] = rng.choice((*WORDS, *SIGNS, '"a"', ".{gate,up}", "[i]", "[e]"))
    return _rewritten(text, changes)


MAKERS: dict[str, Make] = {
    make.__name__: make
    for make in (tokens, swaps, numbers, lines, characters, words, noise, nested, long, layered, weight_maps)
}
_LONG = ("layered", "long", "weight_maps")  # take several times as long as the others
_ROW = (*MAKERS, *[name for name in MAKERS if name not in _LONG] * 3)


def some(seed: int) -> tuple[str, str]:
    """(kind, text) number `seed` of an endless row, which is the same on every machine."""
    kind = _ROW[seed % len(_ROW)]
    return kind, MAKERS[kind](random.Random(seed))
