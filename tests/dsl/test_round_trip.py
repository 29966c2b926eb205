"""Over generated texts: resolving, formatting and filling in defaults never change what a text means."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dsl_texts import load, tree
from moec import dsl

NUMBERS = st.sampled_from(["0.1", "1e-5", "2.5", "1", "3e2", "0.000_1"])


@st.composite
def norms(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(["rms_norm()", f"rms_norm(eps: {draw(st.sampled_from(['1e-6', '0.5']))})"]))


@st.composite
def attentions(draw: st.DrawFn, width: int) -> str:
    heads = draw(st.sampled_from([h for h in (1, 2, 4) if width % (2 * h) == 0]))
    arguments = [f"heads: {heads}"]
    options = {
        "kv_heads": draw(varying(st.sampled_from([str(k) for k in (1, 2, 4) if heads % k == 0]))),
        "head_dim": str(2 * draw(st.integers(1, 20))),
        "rope": draw(varying(st.sampled_from(["none", "rope()", f"rope(theta: {draw(NUMBERS)})"]))),
        "qkv_bias": draw(st.sampled_from(["true", "false"])),
        "qk_norm": draw(st.sampled_from(["none", "per_head(norm)", "full_width(rms_norm(eps: 0.1))"])),
        "clip": draw(st.sampled_from(["none", "8", "0.5"])),
        "window": draw(varying(st.sampled_from(["none", "4", "1K", "width / 4", "reach"]))),
    }
    for name in draw(st.lists(st.sampled_from(sorted(options)), unique=True)):
        arguments.append(f"{name}: {options[name]}")
    return f"gqa({', '.join(arguments)})"


@st.composite
def mixtures(draw: st.DrawFn) -> str:
    count = draw(st.integers(1, 12))
    top = f"top({draw(varying(st.integers(1, count).map(str)))})"
    router = draw(st.sampled_from([f"softmax | {top}", f"softmax | {top} | renormalize", f"{top} | softmax"]))
    width = draw(st.sampled_from(["8", "2 * width", "width / 8 * 3", "match layer { listed => 4, _ => 8 }"]))
    parts = [f"experts: {count} of swiglu({width})", f"router: {router}"]
    if draw(st.booleans()):
        parts.append(f"shared: 1 of swiglu({draw(st.integers(1, 64))})")
        parts.append(f"shared_gate: {draw(st.sampled_from(['true', 'false']))}")
    terms = [
        f"aux_loss({draw(NUMBERS)})",
        f"aux_loss({draw(NUMBERS)}, per: layer)",
        f"z_loss({draw(NUMBERS)})",
    ]
    chosen = draw(st.sampled_from(["none", terms[0], terms[1], terms[2], f"{terms[2]} + {terms[0]}"]))
    return f"moe({', '.join([*parts, f'balance: {chosen}'])})"


@st.composite
def feed_forwards(draw: st.DrawFn, layers: int) -> str:
    cut = draw(st.integers(0, layers))
    return draw(
        st.sampled_from(
            [
                "x += experts(norm(x))",
                "x += norm(experts(x))",
                "x += norm(experts(norm(x)))",
                "x = experts(x)",
                f"x += match layer {{ 0..{cut} => dense, _ => experts }}(norm(x))",
                "x += match layer { listed => dense, every(2) => experts, _ => dense }(norm(x))",
                "h = norm(x)\n x += experts(h) + 0.5 * dense(h)",
                "h = norm(x)\n x += residual * norm2(experts(h) + h) / 3\n x = 2 * x",
                "x += 2 * (residual * (dense(norm(x)) + experts(norm2(x))) + x)",
                "x += match layer { shifted => dense(norm(x)), _ => sqrt(width) * experts(norm(x)) + x }",
                f"s = match layer {{ 0..{cut} => dense, _ => experts }}(norm(x)), x += s * residual + s",
            ]
        )
    )


@st.composite
def varying(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """A value, or one that a match gives."""
    pattern = draw(st.none() | st.sampled_from(["0", "every(2)", "listed", "shifted"]))
    return (
        draw(values)
        if pattern is None
        else f"match layer {{ {pattern} => {draw(values)}, _ => {draw(values)} }}"
    )


@st.composite
def outputs(draw: st.DrawFn) -> str:
    arguments = [draw(st.sampled_from(["x", "norm(x)"]))]
    arguments += draw(st.lists(st.sampled_from(["tied: true", "bias: true"]), unique=True))
    value = f"linear({', '.join(arguments)})"
    return draw(
        st.sampled_from([value, f"{value} / 16", f"softcap({value}, 30)", f"softcap(2 * {value}, 30)"])
    )


@st.composite
def models(draw: st.DrawFn) -> str:
    width = draw(st.sampled_from([8, 16, 24]))
    layers = draw(st.integers(1, 5))
    listed = draw(st.lists(st.integers(0, layers - 1), max_size=3))
    return f"""
model generated {{
    vocab = {draw(st.integers(1, 100_000))}, width = {width}, context = {draw(st.integers(32, 100_000))}
    listed = {listed}, shifted = every({draw(st.integers(1, 4))}, offset: {draw(st.integers(0, 4))})
    residual = {draw(st.sampled_from(["0.22", "sqrt(2) / 4", "match layer { listed => 1, _ => 0.5 }"]))}
    reach = match layer {{ shifted => none, _ => 16 }}
    norm = {draw(norms())}, norm2 = layer_norm(bias: false)
    {draw(st.sampled_from(["", "x = 3 * embed(tokens)", "x = sqrt(width) * norm(embed(tokens))"]))}
    attention = {draw(attentions(width))}
    dense = swiglu({draw(st.integers(1, 20_000))})
    experts = {draw(mixtures())}
    layers {layers} {{
        x += attention(norm(x))
        {draw(feed_forwards(layers))}
    }}
    logits = {draw(outputs())}
}}
"""


@st.composite
def runs(draw: st.DrawFn) -> str:
    sequence = draw(st.integers(1, 32))
    batch = draw(st.integers(1, 8))
    sizes = [f"{batch} sequences", f"{batch * sequence}", f"{batch * sequence} tokens"]
    optimizers = ["adamw", "adamw(lr: 1e-3)", "adamw(betas: (0.5, 0.9), weight_decay: 0)"]
    return f"""
train {{
    sequence = {sequence}
    batch = {draw(st.sampled_from(sizes))}
    {draw(st.sampled_from(["steps = 10_000", "epochs = 3", "seed = 5"]))}
    micro_batches = {draw(st.sampled_from([1, batch]))}
    optimizer = {draw(st.sampled_from(optimizers))}
    schedule = {draw(st.sampled_from(["constant", "cosine(warmup: 5)", "constant(warmup: 2)"]))}
    clip = {draw(st.sampled_from(["none", "0.5"]))}
}}
parallel {{ expert = {draw(st.sampled_from(["2", "rest"]))}, shard = {draw(st.integers(1, 9))} }}
"""


@settings(max_examples=60, deadline=None)
@given(models(), runs())
def test_nothing_changes_what_a_text_means(model: str, run: str) -> None:
    spec = load(model + run)
    assert load(spec.text) == spec, "the resolved text"
    formatted = dsl.format_text(model + run)
    assert dsl.format_text(formatted) == formatted
    assert load(formatted) == spec, "the formatted text"
    explicit = load(dsl.explicit_text(spec))
    assert (explicit.model, explicit.train) == (spec.model, spec.train), "every default in full"
    assert explicit.parallel == spec.parallel


@settings(max_examples=60, deadline=None)
@given(models(), st.data())
def test_comments_and_blank_lines_mean_nothing(model: str, data: st.DataObject) -> None:
    lines = model.splitlines()
    for _ in range(data.draw(st.integers(1, 6))):
        index = data.draw(st.integers(0, len(lines) - 1))
        lines[index] += data.draw(st.sampled_from(["  # a comment", "\n", "\n\n# above\n", " \t"]))
    text = "\n".join(lines)
    assert tree(text) == tree(model)
    formatted = dsl.format_text(text)
    assert formatted.count("#") == text.count("#")
    assert dsl.format_text(formatted) == formatted
