"""Legal components at random: texts that use every construct and every argument of the language."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import strategies as st

Draw = st.DrawFn
Text = st.SearchStrategy[str]

WIDTH, LAYERS = 64, 4
POSITIVE = st.sampled_from(["0.1", "1e-5", "2.5", "1", "3e2", "0.000_1", "half", "1 / 3", "sqrt(5)"])
ORDER = st.sampled_from(["0.1", "1", "2.5", "half", "100"])
FLAG = st.sampled_from(["true", "false"])
EPS = st.sampled_from(["1e-6", "0.5", "half"])


def _maybe(text: Text) -> Text:
    return st.one_of(st.just("none"), text)


def _call(draw: Draw, name: str, options: Mapping[str, Text], *given: str) -> str:
    """A call with some of the optional arguments, in any order."""
    chosen = draw(st.lists(st.sampled_from(sorted(options)), unique=True)) if options else []
    named = [f"{option}: {draw(options[option])}" for option in chosen]
    return f"{name}({', '.join([*given, *named])})"


@st.composite
def per_layer(draw: Draw, values: Text) -> str:
    """A value, at times another one in some layers."""
    if draw(st.integers(0, 4)):
        return draw(values)
    pattern = draw(st.sampled_from(["every(2)", "0..2", "some_layers", "[1, 3]"]))
    return f"match layer {{ {pattern} => {draw(values)}, _ => {draw(values)} }}"


@st.composite
def norms(draw: Draw) -> str:
    options = {"eps": EPS, "weight": st.sampled_from(["scale", "offset", "none"])}
    if draw(st.booleans()):
        return _call(draw, "layer_norm", options | {"bias": FLAG})
    return _call(draw, "rms_norm", options)


NORM_ARGUMENT = st.one_of(norms(), st.sampled_from(["norm", "rms_norm"]))


@st.composite
def positions(draw: Draw, dims: int, latent: bool) -> str:
    """A position on a head of `dims` dims, 8 or more."""
    extent, rotated = draw(
        st.sampled_from([("", dims), ("dims: 4", 4), ("fraction: 0.5", dims // 2), (f"dims: {dims}", dims)])
    )
    options = {
        "theta": st.sampled_from(["1e6", "10_000", "500"]),
        "layout": st.sampled_from(["half", "interleaved"]),
    }
    name = draw(st.sampled_from(sorted(_POSITIONS)))
    given, more = _POSITIONS[name](draw, rotated, latent)
    return _call(draw, name, options | more, *given, *([extent] if extent else []))


def _yarn(draw: Draw, rotated: int, latent: bool) -> tuple[list[str], dict[str, Text]]:
    options = {
        "beta_fast": st.just("16"), "beta_slow": st.just("2"), "truncate": FLAG, "magnitude": POSITIVE
    }  # fmt: skip
    given = [f"factor: {draw(st.sampled_from(['4', '40.5']))}", "original: 1K"]
    if draw(st.booleans()):
        given += ["mscale: 0.7", "mscale_all_dim: 1"]
        del options["magnitude"]
    elif latent:
        options["mscale_all_dim"] = _maybe(POSITIVE)
    return given, options


def _longrope(draw: Draw, rotated: int, latent: bool) -> tuple[list[str], dict[str, Text]]:
    factors = [f"[{', '.join([draw(POSITIVE)] * (rotated // 2))}]" for _ in range(2)]
    original = draw(st.sampled_from(["64", "2", "1M"]))
    given = [f"short: {factors[0]}", f"long: {factors[1]}", f"original: {original}"]
    return given, {"short_mscale": POSITIVE, "long_mscale": POSITIVE}


_POSITIONS: dict[str, Callable[[Draw, int, bool], tuple[list[str], dict[str, Text]]]] = {
    "rope": lambda draw, rotated, latent: ([], {}),
    "linear_rope": lambda draw, rotated, latent: (["factor: 4"], {}),
    "dynamic_rope": lambda draw, rotated, latent: (["factor: 4", "original: 64"], {}),
    "ntk_rope": lambda draw, rotated, latent: ([f"alpha: {draw(POSITIVE)}"], {}),
    "yarn": _yarn,
    "llama3_rope": lambda draw, rotated, latent: (
        ["factor: 8", "original: 64"], {"low_freq": st.just("0.5"), "high_freq": st.just("8")}
    ),
    "longrope": _longrope,
}  # fmt: skip


@st.composite
def _temperatures(draw: Draw) -> str:
    given = [f"scale: {draw(POSITIVE)}", "period: 8K"]
    return _call(draw, "log_temperature", {"offset": st.sampled_from(["0", "1"])}, *given)


@st.composite
def _gates(draw: Draw) -> str:
    options = {"act": st.sampled_from(["sigmoid", "softplus"]), "bias": FLAG}
    return _call(draw, draw(st.sampled_from(["element_gate", "head_gate"])), options)


def _attend(draw: Draw) -> dict[str, Text]:
    mask = draw(st.sampled_from(["window", "chunk"]))
    return {
        mask: _maybe(st.sampled_from(["8", "1K"])),
        "sinks": FLAG,
        "softcap": _maybe(POSITIVE),
        "temperature": _maybe(_temperatures()),
        "scale": POSITIVE,
        "gate": _maybe(_gates()),
    }


@st.composite
def gqas(draw: Draw) -> str:
    heads = draw(st.sampled_from([1, 2, 4, 8]))
    head_dim = draw(st.sampled_from([8, 12, 16, 64]))
    given = [f"heads: {heads}"]
    if WIDTH // heads != head_dim or draw(st.booleans()):
        given.append(f"head_dim: {head_dim}")
    qk_norm = draw(st.sampled_from([f"per_head({{}}, after_rope: {draw(FLAG)})", "full_width({})"]))
    options = _attend(draw) | {
        "kv_heads": st.sampled_from([str(k) for k in (1, 2, 4, 8) if heads % k == 0]),
        "value_dim": st.sampled_from(["3", "16"]),
        "rope": _maybe(positions(head_dim, False)),
        "qkv_bias": FLAG,
        "out_bias": FLAG,
        "qk_norm": _maybe(NORM_ARGUMENT.map(qk_norm.format)),
        "clip": _maybe(POSITIVE),
        "value_scale": POSITIVE,
    }
    return _call(draw, "gqa", {name: per_layer(text) for name, text in options.items()}, *given)


@st.composite
def mlas(draw: Draw) -> str:
    rope_dim = draw(st.sampled_from([8, 16]))
    given = [
        f"heads: {draw(st.integers(1, 9))}",
        "kv_rank: 16",
        "nope_dim: 5",
        f"rope_dim: {rope_dim}",
        "v_dim: 7",
    ]
    options = _attend(draw) | {
        "q_rank": _maybe(st.just("24")),
        "rope": _maybe(positions(rope_dim, True)),
        "norm": NORM_ARGUMENT,
        "bias": FLAG,
        "latent_scale": FLAG,
    }
    return _call(draw, "mla", {name: per_layer(text) for name, text in options.items()}, *given)


@st.composite
def networks(draw: Draw) -> str:
    width = draw(st.sampled_from(["1", "96", "size", "2 * size"]))
    name = draw(st.sampled_from(["swiglu", "geglu", "mlp"]))
    if name == "mlp":
        acts = st.sampled_from(["silu", "gelu", "gelu_tanh", "relu", "relu2"])
        return _call(draw, name, {"act": acts, "bias": FLAG}, width)
    options = {"bias": FLAG, "offset": st.sampled_from(["0", "-1", "0.5"])}
    options[draw(st.sampled_from(["clamp", "clamp_after"]))] = _maybe(POSITIVE)
    return _call(draw, name, options | ({"alpha": POSITIVE} if name == "swiglu" else {}), width)


@st.composite
def routers(draw: Draw, groups: bool) -> str:
    """A router of 8 experts."""
    if draw(st.integers(0, 5)) == 0:
        return _call(draw, "sparsemixer", {"jitter": POSITIVE}, "2")
    factors = st.lists(POSITIVE.map("scale({})".format) | POSITIVE.map("softcap({})".format), max_size=2)
    stages = [*draw(st.sampled_from([[], ["jitter(half)"]])), *draw(factors)]
    score = draw(st.sampled_from(["softmax", "sigmoid", "sqrt_softplus"]))
    late = draw(st.booleans())
    stages += [] if late else [score]
    chooser = draw(st.sampled_from(["top(2)", "top(k: 4)", "hash(3)", "round_robin(1)"]))
    if chooser.startswith("top"):
        bias = _call(draw, "correction_bias", {"update": _maybe(POSITIVE)})
        sinkhorn = _call(draw, "sinkhorn", {"iterations": st.just("3")})
        stages += draw(st.sampled_from([[], [bias], [sinkhorn], ["correction_bias"]]))
        by, fill = st.sampled_from(["max", "top2_sum"]), st.sampled_from(["minus_inf", "zero"])
        group = _call(draw, "groups", {"by": by, "fill": fill}, "4", "keep: 2")
        stages += [group] if groups and draw(st.booleans()) else []
    stages += [chooser, *([draw(st.sampled_from(["softmax", "sigmoid"]))] if late else [])]
    renormalize = _call(draw, "renormalize", {"eps": POSITIVE, "minimum": POSITIVE, "p": ORDER})
    stages += draw(st.sampled_from([[], ["renormalize"], [renormalize]]))
    stages += draw(st.lists(POSITIVE.map("scale({})".format), max_size=1))
    stages += draw(st.sampled_from([[], ["expert_scale"], ["expert_scale", "capacity(1.25)"]]))
    return " | ".join(stages)


@st.composite
def losses(draw: Draw, scored: bool) -> str:
    options = {"per": st.sampled_from(["model", "layer"]), "choices": st.sampled_from(["router", "softmax"])}
    aux = _call(draw, "aux_loss", options, draw(POSITIVE))
    terms = [aux, f"z_loss({draw(POSITIVE)})", *(["sequence_aux_loss(1e-4)"] if scored else [])]
    terms = draw(st.lists(st.sampled_from(terms), unique=True))
    return " + ".join(terms) or "none"


@st.composite
def mixtures(draw: Draw) -> str:
    identity = draw(st.sampled_from(["0", "0", "4"]))
    router = draw(routers(identity == "0"))
    given = [f"experts: 8 of {draw(networks())}", f"router: {router}"]
    scored = any(score in router for score in ("softmax |", "sigmoid |", "sqrt_softplus |"))
    late = any(f"| {score}" in router for score in ("softmax", "sigmoid"))
    options = {"router_bias": FLAG, "balance": losses(scored and not late)}
    if identity != "0":
        given.append(f"identity: {identity}")
    elif draw(st.booleans()):
        options["weigh"] = st.sampled_from(["output", "input"])
    else:
        given.append("latent: 32")
        options |= {"latent_norm": _maybe(NORM_ARGUMENT), "expert_norm": _maybe(NORM_ARGUMENT)}
    if draw(st.booleans()):
        given.append(f"shared: {draw(st.integers(1, 3))} of {draw(networks())}")
        options |= {"shared_gate": FLAG, "combine": st.sampled_from(["sum", "average"])}
    return _call(draw, "moe", options, *given)


@st.composite
def models(draw: Draw) -> str:
    """A whole model whose layers use all of these."""
    cut = draw(st.integers(0, LAYERS))
    logits = draw(
        st.sampled_from(
            ["linear(norm(x))", "0.5 * linear(x, bias: true)", "softcap(linear(norm(x), tied: true), 30)"]
        )
    )
    embed = draw(st.sampled_from(["", "x = embed(tokens)", "x = sqrt(width) * norm(embed(tokens))"]))
    return f"""
model generated {{
    vocab = 1000, width = {WIDTH}, context = 128K
    half = 0.5, size = 48, some_layers = [0, 3]
    norm = {draw(norms())}
    attention = {draw(gqas())}
    latent = {draw(mlas())}
    dense = {draw(networks())}
    experts = {draw(mixtures())}
    {embed}
    layers {LAYERS} {{
        h = norm(x)
        x += match layer {{ 0..{cut} => attention, every(2, offset: 1) => latent, _ => attention }}(h)
        x += 0.22 * experts(h) + dense(h)
    }}
    logits = {logits}
}}
"""
