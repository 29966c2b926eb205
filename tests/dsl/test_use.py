"""`use` merges another text below the present one, setting by setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsl_texts import SMALL, codes, errors, load
from moec import dsl
from moec.dsl import catalogue as c
from moec.dsl import limits


def _load(folder: Path, name: str) -> dsl.Spec:
    return dsl.load(folder / name)


def _write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.moe").write_text(text, encoding="utf-8")
    return folder


def test_the_present_file_overrides_setting_by_setting(tmp_path: Path) -> None:
    base = SMALL + "train {\n    steps = 10\n    seed  = 3\n}\n"
    own = 'use "base.moe"\nmodel {\n    width = 32\n    norm = rms_norm(eps: 0.1)\n}\ntrain { seed = 4 }\n'
    spec = _load(_write(tmp_path, base=base, own=own), "own.moe")
    assert (spec.model.name, spec.model.width, spec.model.vocab) == ("small", 32, 320)
    assert (spec.train.steps, spec.train.seed) == (10, 4)


def test_layers_are_replaced_whole(tmp_path: Path) -> None:
    own = 'use "base.moe"\nmodel other {\n    layers 3 {\n        x += attention(norm(x))\n    }\n}\n'
    spec = _load(_write(tmp_path, base=SMALL, own=own), "own.moe")
    assert spec.model.name == "other"
    assert [len(layer.equations) for layer in spec.model.layers] == [1, 1, 1]


def test_epochs_replace_steps_and_the_other_way(tmp_path: Path) -> None:
    base = SMALL + "train { steps = 10 }\n"
    folder = _write(tmp_path, base=base, own='use "base.moe"\ntrain { epochs = 2 }\n')
    assert _load(folder, "own.moe").train.steps is None
    third = _write(tmp_path, third='use "own.moe"\ntrain { steps = 5 }\n')
    assert _load(third, "third.moe").train.epochs is None


def test_a_path_is_relative_to_the_file_that_uses_it(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    _write(inner, base=SMALL, middle='use "base.moe"\n')
    assert _load(_write(tmp_path, own='use "inner/middle.moe"\n'), "own.moe").model.name == "small"


def test_the_resolved_text_needs_no_other_file(tmp_path: Path) -> None:
    own = '# mine\nuse "base.moe"\ntrain { steps = 3 }  # short\n'
    spec = _load(_write(tmp_path, base=SMALL, own=own), "own.moe")
    assert "use" not in spec.text
    assert dsl.load_text(spec.text) == spec


def test_a_shipped_model_by_name_or_by_alias() -> None:
    assert load("use qwen2_moe").model.name == "qwen2_57b_a14b"
    assert codes(errors("use qwen_moe")) == {c.NO_SUCH_MODEL.code}


@pytest.mark.parametrize("name", ["own.moe", "./own.moe", "../{folder}/own.moe"])
def test_a_cycle_is_found_however_the_file_is_spelled(tmp_path: Path, name: str) -> None:
    text = f'use "{name.format(folder=tmp_path.name)}"\n'
    with pytest.raises(dsl.SourceErrors) as caught:
        _load(_write(tmp_path, own=text), "own.moe")
    assert codes(caught.value.diagnostics) == {c.USE_CYCLE.code}


def test_a_fan_of_files_is_bounded(tmp_path: Path) -> None:
    for index in range(12):  # without a bound, 2^12 files would be read
        text = f'use "f{index + 1}.moe"\nuse "f{index + 1}.moe"\n'
        _write(tmp_path, **{f"f{index}": text})
    _write(tmp_path, f12=SMALL)
    with pytest.raises(dsl.SourceErrors) as caught:
        _load(tmp_path, "f0.moe")
    assert any(f"{limits.USED_FILES} files" in d.label for d in caught.value.diagnostics)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"a" * (limits.FILE_BYTES + 1)], ids=["not UTF-8", "too large"]
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "own.moe").write_bytes(data)
    with pytest.raises(dsl.SourceErrors) as caught:
        _load(tmp_path, "own.moe")
    assert codes(caught.value.diagnostics) == {c.NOT_TEXT.code}


def test_a_text_is_read_as_it_is(tmp_path: Path) -> None:
    text = 'use "base.moe"  # not followed\n'
    _write(tmp_path, own=text)
    assert dsl.read_text(tmp_path / "own.moe") == text
    with pytest.raises(dsl.SourceErrors):
        dsl.read_text(tmp_path / "missing.moe")


def test_a_folder_and_a_missing_file_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.moe", tmp_path / ("a" * 300 + ".moe")):
        with pytest.raises(dsl.SourceErrors) as caught:
            dsl.load(path)
        assert codes(caught.value.diagnostics) == {c.UNREADABLE.code}


def test_a_bare_name_is_a_shipped_model_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").write_text(SMALL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert dsl.load("run").model.name == "small"
    with pytest.raises(dsl.SourceErrors) as caught:
        dsl.load("tinny", shipped=["tiny"])
    assert "`tiny`" in caught.value.diagnostics[0].advice
