"""The three texts that set the direction of the language parse and mean what they say."""

from __future__ import annotations

from pathlib import Path

from dsl_texts import codes, errors, load
from moec import dsl, models
from moec.dsl import catalogue, spec
from moec.dsl.parameters import count

TEXTS = Path(__file__).parent / "texts"


def _text(name: str) -> str:
    return (TEXTS / f"{name}.moe").read_text(encoding="utf-8")


def test_mixtral_checks_and_equals_the_shipped_model() -> None:
    shipped = dsl.load("mixtral_8x7b", find_model=models.read)
    assert load(_text("mixtral_8x7b")).model == shipped.model


def test_mixtral_with_its_weight_map_is_proved_a_bijection() -> None:
    found = load(_text("mixtral_8x7b") + _text("mixtral_map")).checkpoint
    assert found is not None
    assert len(found.tensors) == len({x.name for x in found.tensors}) == 3 + 32 * (7 + 3 * 8)


def test_deepseek_v3_means_what_it_says() -> None:
    model = load(_text("deepseek_v3")).model
    yarn = spec.Yarn(factor=40.0, original=4096, mscale=1.0, mscale_all_dim=1.0)
    attention = spec.Mla(
        heads=128, q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128,
        rope=spec.Rope(10_000.0, layout="interleaved", scaling=yarn), norm=spec.RmsNorm(1e-6),
    )  # fmt: skip
    router = (
        spec.Sigmoid(), spec.CorrectionBias(0.001), spec.Groups(8, 4, "top2_sum"), spec.Top(8),
        spec.Renormalize(), spec.Scale(2.5),
    )  # fmt: skip
    shared, balance = spec.SharedExperts(spec.Ffn(2048)), (spec.SequenceAuxLoss(0.0001),)
    experts = spec.Moe(256, spec.Ffn(2048), router, balance, shared)
    for index, layer in enumerate(model.layers):
        found = [call.component for call in layer.calls() if not isinstance(call.component, spec.RmsNorm)]
        assert found == [attention, spec.Ffn(18_432) if index < 3 else experts]
    total, active = (round(number / 1e9) for number in count(model))
    assert (total, active) == (671, 38), "the paper counts 37 active, without the embedding"


def test_the_cluster_run_checks_but_for_what_is_not_built_yet() -> None:
    found = errors(_text("cluster_run"))
    assert codes(found) == {catalogue.NOT_YET.code}
    named = [diagnostic.span.text for diagnostic in found if diagnostic.span is not None]
    assert named == ["imbalance = 2.0", "device = 80GiB"]


def test_the_cluster_run_without_that_means_what_it_says() -> None:
    text = _text("cluster_run").replace(", imbalance = 2.0, device = 80GiB", "")
    found = load(text)
    assert found.parallel == spec.ParallelSpec(expert=8, shard=32, replicate=None)
    assert found.precision == spec.PrecisionSpec(compute="bf16")
    assert found.memory == spec.MemorySpec(recompute="attention")
    assert found.train == spec.TrainSpec(
        sequence=4096,
        batch_tokens=4 * 2**20,
        steps=100_000,
        optimizer=spec.AdamW(3e-4, (0.9, 0.95), 1e-8, 0.1),
        schedule=spec.Cosine(2000, 0.1),
        clip=1.0,
        seed=1,
    )
    assert found.train.batch_sequences == 1024
