"""Training a part on top of a finished LoRA: that one stays as it is, and the slider goes from it to both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.training_runs import config, train, trainer

from dfosd_core.errors import ConfigError
from dfosd_core.hosts.own import load_base
from dfosd_core.lora.file import load_lora, save_lora
from dfosd_core.lora.parts import PIXEL, SEMANTIC, joined, scaled, split
from dfosd_core.pipeline import UpscaleSettings, upscale

RANKS = {PIXEL: 4, SEMANTIC: 3}


@pytest.fixture(scope="module")
def pixel(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of rank 4, trained for two steps."""
    out = tmp_path_factory.mktemp("pixel")
    train(config(material, out, model={"rank": RANKS[PIXEL], "lora_alpha": 8.0}, optim={"steps": 2, "lr": 1e-2}))
    return out / "last.safetensors"


@pytest.fixture(scope="module")
def both(material: Path, pixel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps more for a second part of rank 3."""
    out = tmp_path_factory.mktemp("both")
    model = {"rank": RANKS[SEMANTIC], "lora_alpha": 3.0, "pixel_lora": pixel}
    train(config(material, out, model=model, optim={"steps": 3, "lr": 1e-2}))
    return out / "last.safetensors"


def test_the_first_part_is_the_finished_lora(material: Path, pixel: Path, both: Path) -> None:
    first, whole, host = load_lora(pixel), load_lora(both), load_base(material / "base")
    assert whole.metadata.parts == RANKS
    assert whole.metadata.rank == sum(RANKS.values())
    assert torch.equal(whole.prompt_embeds, first.prompt_embeds)
    image, settings = torch.rand(1, 12, 10, 3), UpscaleSettings(color_fix="none")
    expected, changed = (upscale(image, host, lora, settings) for lora in (first, whole))
    faithful = upscale(image, host, whole, replace(settings, strength=0.0))
    torch.testing.assert_close(faithful, expected, rtol=0, atol=1e-4)
    assert (changed - expected).abs().max() > 1e-3


def test_two_parts_joined_do_what_both_do(both: Path) -> None:
    whole = load_lora(both)
    parts = [scaled(whole, {other: 0.0}) for other in (SEMANTIC, PIXEL)]
    for name, pair in whole.pairs.items():
        change = [(p.pairs[name].up.flatten(1).float() @ p.pairs[name].down.flatten(1).float()) for p in parts]
        total = pair.up.flatten(1).float() @ pair.down.flatten(1).float()
        torch.testing.assert_close(change[0] + change[1], total, rtol=0, atol=1e-5)
    first = load_lora(both)
    with pytest.raises(ValueError, match="two parts need"):
        joined(replace(first, pairs=dict(list(first.pairs.items())[1:])), first)


def test_a_fresh_part_changes_nothing_and_a_resumed_run_goes_on(material: Path, pixel: Path, tmp_path: Path) -> None:
    model = {"rank": RANKS[SEMANTIC], "lora_alpha": 3.0, "pixel_lora": pixel}
    fresh, first = trainer(config(material, tmp_path / "fresh", model=model)).lora(), load_lora(pixel)
    for name, pair in fresh.pairs.items():
        assert not pair.up[:, RANKS[PIXEL] :].any()
        torch.testing.assert_close(pair.up[:, : RANKS[PIXEL]], (first.pairs[name].up * 2).half(), rtol=0, atol=1e-6)
        assert torch.equal(pair.down[: RANKS[PIXEL]], first.pairs[name].down.half())
    optim = {"lr": 1e-2}
    train(config(material, tmp_path / "straight", model=model, optim={"steps": 4, **optim}))
    for steps in (2, 4):
        train(config(material, tmp_path / "resumed", model=model, optim={"steps": steps, **optim}))
    straight, resumed = (load_lora(tmp_path / each / "last.safetensors") for each in ("straight", "resumed"))
    for name, pair in straight.pairs.items():
        assert torch.equal(pair.up, resumed.pairs[name].up)


def test_parts_come_out_as_they_were_put_together(both: Path) -> None:
    whole = load_lora(both)
    parts = split(whole)
    assert list(parts) == [PIXEL, SEMANTIC]
    again = joined(parts[PIXEL], parts[SEMANTIC])
    assert (again.metadata.rank, again.metadata.lora_alpha, again.metadata.parts) == (7, 7.0, RANKS)
    for name, pair in whole.pairs.items():
        assert torch.equal(again.pairs[name].up, pair.up)
        assert torch.equal(again.pairs[name].down, pair.down)
        assert again.pairs[name].alpha == pair.alpha
    assert split(parts[PIXEL]) == {}


def test_a_run_goes_on_from_a_lora_of_two_parts(material: Path, pixel: Path, both: Path, tmp_path: Path) -> None:
    whole = load_lora(both)
    model = {"rank": RANKS[SEMANTIC], "lora_alpha": 6.0, "pixel_lora": both}
    start = trainer(config(material, tmp_path / "start", model=model)).lora()
    assert start.metadata.parts == RANKS
    for name, pair in whole.pairs.items():
        torch.testing.assert_close(start.pairs[name].up, pair.up, rtol=1e-3, atol=1e-6)
        assert torch.equal(start.pairs[name].down, pair.down)
    train(config(material, tmp_path / "on", model=model, optim={"steps": 2, "lr": 1e-2}))
    on, rows = load_lora(tmp_path / "on" / "last.safetensors"), slice(0, RANKS[PIXEL])
    assert all(torch.equal(on.pairs[name].up[:, rows], pair.up[:, rows]) for name, pair in whole.pairs.items())
    assert any(not torch.equal(on.pairs[name].up, pair.up) for name, pair in whole.pairs.items())
    cut = trainer(config(material, tmp_path / "cut", model={**model, "rank": 2}))
    assert any(note.startswith("model.pixel_lora") and "cut to rank 2" in note for note in cut.networks.notes)


def test_source_and_licence_of_the_first_part_go_on(material: Path, pixel: Path, tmp_path: Path) -> None:
    lora = load_lora(pixel)
    about = replace(lora.metadata, source="HYPIR", license="non-commercial")
    save_lora(tmp_path / "pixel.safetensors", replace(lora, metadata=about))
    model = {"rank": RANKS[SEMANTIC], "lora_alpha": 3.0, "pixel_lora": tmp_path / "pixel.safetensors"}
    exported = trainer(config(material, tmp_path / "out", model=model)).lora().metadata
    assert (exported.source, exported.license) == ("DFOSD on HYPIR", "non-commercial")


def test_what_cannot_stay_below_is_refused_in_one_line(material: Path, pixel: Path, both: Path, tmp_path: Path) -> None:
    def refused(lora: Path, **model: object) -> str:
        with pytest.raises(ConfigError) as caught:
            trainer(config(material, tmp_path / "out", model={"pixel_lora": lora, **model}))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "There is no LoRA file" in refused(tmp_path / "none.safetensors")
    assert "expected no model.init_lora beside it" in refused(pixel, init_lora=pixel)
    assert "It was trained at timestep" in refused(pixel, timestep=250)
    lora = load_lora(pixel)
    name, pair = next(iter(lora.pairs.items()))
    fewer = replace(lora, pairs={**lora.pairs, name: replace(pair, down=pair.down[:2], up=pair.up[:, :2])})
    save_lora(tmp_path / "uneven.safetensors", fewer)
    assert "ranks [2, 4]" in refused(tmp_path / "uneven.safetensors")
    whole = load_lora(both)
    other = replace(whole, metadata=replace(whole.metadata, parts={PIXEL: 4, "other": 3}))
    save_lora(tmp_path / "other.safetensors", other)
    assert "Expected a LoRA of one part and one rank" in refused(tmp_path / "other.safetensors")
