"""Training from any LoRA: the generator begins where the LoRA is, at the run's own rank, and exports all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.peers import PEERS, empty_prompt, sd_host, write_base
from support.small_networks import rng
from support.training_runs import accelerator, config, train, trainer
from torch import Tensor, nn

from dfosd_core.errors import ConfigError, LoraMismatchError
from dfosd_core.lora.changes import LoraPair
from dfosd_core.lora.file import DfosdLora, ImportedLora, load_lora, save_lora
from dfosd_core.lora.merge import delta_weight
from dfosd_core.lora.open import open_lora
from dfosd_core.training.generator import DfosdGenerator
from dfosd_core.training.lora_layers import LoraLayer
from dfosd_core.training.starting_lora import fit_pair
from train_tools.loop.start import start_notes
from train_tools.train import run


def random_pair(layer: nn.Linear | nn.Conv2d, rank: int, alpha: float) -> LoraPair:
    weight = layer.weight
    down = torch.randn(rank, *weight.shape[1:], generator=rng(3))
    up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=rng(4))
    return LoraPair(down=down, up=up, alpha=alpha)


LAYERS = [nn.Linear(20, 30), nn.Linear(30, 20), nn.Conv2d(6, 24, 3), nn.Conv2d(24, 4, 3), nn.Conv2d(16, 16, 1)]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("rank", [1, 4, 7, 8])
def test_larger_rank_changes_the_weight_by_the_same(layer: nn.Linear | nn.Conv2d, rank: int) -> None:
    pair, fresh = random_pair(layer, rank, 2.5), LoraLayer(layer, 8, 3.0, rng())
    down, up, error = fit_pair(pair, fresh)
    assert error == 0.0
    assert (down.shape, up.shape) == (fresh.down_weight.shape, fresh.up_weight.shape)
    shape = layer.weight.shape
    found = delta_weight(LoraPair(down=down, up=up, alpha=3.0), 1.0, shape)
    torch.testing.assert_close(found, delta_weight(pair, 1.0, shape), rtol=1e-5, atol=1e-5)
    assert torch.equal(down[:rank], pair.down)
    assert torch.equal(down[rank:], fresh.down_weight[rank:])
    assert not up[:, rank:].any()


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("rank", [9, 16, 40])
def test_smaller_rank_is_the_best_approximation(layer: nn.Linear | nn.Conv2d, rank: int) -> None:
    pair, fresh = random_pair(layer, rank, 5.0), LoraLayer(layer, 8, 3.0, rng())
    down, up, error = fit_pair(pair, fresh)
    shape = layer.weight.shape
    whole = delta_weight(pair, 1.0, shape).flatten(1).double()
    found = delta_weight(LoraPair(down=down, up=up, alpha=3.0), 1.0, shape).flatten(1).double()
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    best = left[:, :8] * values[:8] @ right[:8]
    torch.testing.assert_close(found, best, rtol=1e-4, atol=1e-4)
    assert error == pytest.approx(((whole - best).norm() / whole.norm()).item(), abs=1e-6)


def test_pair_of_another_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="are of another layer"):
        fit_pair(random_pair(LAYERS[0], 4, 4.0), LoraLayer(LAYERS[1], 8, 3.0, rng()))


def generator_at(lora: DfosdLora, rank: int) -> tuple[DfosdGenerator, dict[str, float], Any]:
    host = sd_host()
    generator = DfosdGenerator(
        host.vae, host.unet, prompt_embeds=empty_prompt(), t=lora.metadata.timestep, rank=rank, lora_alpha=4, rng=rng()
    )
    return generator, generator.load_lora(lora), host


def signed_image() -> Tensor:
    return torch.rand(1, 3, 64, 48, generator=rng(3)) * 2 - 1


def opened(name: str, folder: Path) -> DfosdLora:
    lora = open_lora(PEERS[name]().write(folder))
    assert isinstance(lora, ImportedLora)
    return lora.with_prompt(empty_prompt())


@pytest.mark.parametrize(("name", "rank"), [("osediff", 4), ("osediff", 16), ("omgsr", 40)])
def test_generator_begins_where_the_lora_is(name: str, rank: int, tmp_path: Path) -> None:
    """On all its layers: those that train, those that do not, the VAE's encoder, and conv_in in full."""
    lora = opened(name, tmp_path)
    generator, errors, host = generator_at(lora, rank)
    assert errors == {}
    before = {key: value.clone() for key, value in (host.unet.state_dict() | host.vae.state_dict()).items()}
    x = signed_image()
    with torch.no_grad():
        z_sr, found = generator(x)
        with host.lora(lora, 1.0):
            z_lr = host.encode(x)
            eps = host.predict_eps(z_lr, lora.metadata.timestep, lora.prompt_embeds)
        own = generator.unet(z_lr, lora.metadata.timestep, encoder_hidden_states=empty_prompt()).sample
        torch.testing.assert_close(own, eps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, PEERS[name]().image(x), rtol=1e-3, atol=1e-4)
    assert z_sr.isfinite().all()
    after = host.unet.state_dict() | host.vae.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items()), "the base is as it was"
    # Originals are encoded by the base's own encoder.
    torch.testing.assert_close(generator.encode(x), host.encode(x), rtol=1e-5, atol=1e-6)
    assert (generator.encode(x) - z_lr).abs().max() > 1e-2


def test_exported_lora_holds_what_is_not_trained(tmp_path: Path) -> None:
    lora = opened("osediff", tmp_path)
    generator, _, host = generator_at(lora, 16)
    metadata = replace(lora.metadata, rank=16, lora_alpha=4.0)
    exported = generator.export_lora(metadata)
    untrained = {name for name in lora.pairs if name.startswith("lora_vae") or name.endswith(("conv_in", "conv_out"))}
    for name in untrained:
        assert torch.equal(exported.pairs[name].down, lora.pairs[name].down)
        assert torch.equal(exported.pairs[name].up, lora.pairs[name].up)
    assert exported.set_weights.keys() == exported.set_biases.keys() == {"lora_unet_conv_in"}
    x = signed_image()
    with torch.no_grad(), host.lora(exported, 1.0):
        z_lr = host.encode(x)
        eps = host.predict_eps(z_lr, 999, exported.prompt_embeds)
    with torch.no_grad():
        own = generator.unet(z_lr, 999, encoder_hidden_states=empty_prompt()).sample
    torch.testing.assert_close(eps, own, rtol=1e-5, atol=1e-5)
    # And it is a start again.
    again, errors, _ = generator_at(load_lora(save_lora(tmp_path / "x.safetensors", exported)), 16)
    assert errors == {}
    assert again.export_lora(metadata) == exported


def test_layers_that_the_lora_lacks_start_fresh(tmp_path: Path) -> None:
    lora = opened("omgsr", tmp_path)
    generator, _, _ = generator_at(lora, 32)
    pairs = generator.export_lora(replace(lora.metadata, rank=32, lora_alpha=4.0)).pairs
    fresh = pairs.keys() - lora.pairs.keys()
    assert fresh
    assert all(not pairs[name].up.any() and pairs[name].down.any() for name in fresh)


def test_cut_layers_are_told_with_their_error(tmp_path: Path) -> None:
    lora = opened("hypir", tmp_path)
    generator, errors, _ = generator_at(lora, 16)
    assert len(errors) == sum(name in lora.pairs for name in errors) > 40
    assert 0 < max(errors.values()) < 1
    (cut, more) = start_notes(lora, generator, errors)
    worst = max(errors, key=lambda name: errors[name])
    mean = sum(errors.values()) / len(errors)
    assert cut.startswith(f"model.init_lora: {len(errors)} layers are cut to rank 16; relative error of the weights'")
    assert cut.endswith(f"worst {errors[worst]:.4f} ({worst}), mean {mean:.4f}.")
    assert "layers that are not trained stay as they are" in more
    pair = generator.export_lora(replace(lora.metadata, rank=16, lora_alpha=4.0)).pairs[worst]
    shape = torch.Size((pair.up.shape[0], *pair.down.shape[1:]))
    whole = delta_weight(lora.pairs[worst], 1.0, shape)
    assert errors[worst] == pytest.approx(
        ((delta_weight(pair, 1.0, shape) - whole).norm() / whole.norm()).item(), abs=1e-4
    )


def test_another_timestep_or_rule_is_told(tmp_path: Path) -> None:
    lora = opened("pisa_sr", tmp_path)
    host = sd_host()
    generator = DfosdGenerator(host.vae, host.unet, prompt_embeds=empty_prompt(), rank=8, rng=rng())
    notes = start_notes(lora, generator, generator.load_lora(lora))
    assert notes[0] == (
        "Warning: model.init_lora was trained at timestep 1 with the rule residual; this run uses timestep 399 and "
        "eps-x0."
    )


def test_generator_refuses_what_does_not_fit_and_stays_as_it_is(tmp_path: Path) -> None:
    lora = opened("omgsr", tmp_path)
    generator, _, _ = generator_at(lora, 32)
    before = {name: p.detach().clone() for name, p in generator.named_parameters()}
    pair = next(iter(lora.pairs.values()))
    wrong = replace(lora, pairs={**lora.pairs, "lora_unet_new": pair})
    with pytest.raises(LoraMismatchError, match="1 with no such layer: lora_unet_new"):
        generator.load_lora(wrong)
    with pytest.raises(ConfigError, match="has prompt embeddings of"):
        generator.load_lora(replace(lora, prompt_embeds=lora.prompt_embeds[:, :5]))
    assert all(torch.equal(value, before[name]) for name, value in generator.named_parameters())


def peer_config(material: Path, tmp_path: Path, lora: Path, **changes: dict[str, Any]) -> Any:
    base = write_base(tmp_path / "sd")
    model = {"base": str(base), "init_lora": lora, "rank": 6, "timestep": 999, **changes.pop("model", {})}
    return config(material, tmp_path / "out", model=model, data={"crop": 32}, **changes)


def test_run_from_another_methods_lora(material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora = PEERS["osediff"]().write(tmp_path)
    settings = peer_config(material, tmp_path, lora, optim={"steps": 1}, discriminator={"kind": "none"})
    assert run(settings, accelerator()) == 0
    out = capsys.readouterr().out
    assert "Warning" not in out
    assert "model.init_lora: 24 layers that are not trained stay as they are" in out
    last = load_lora(tmp_path / "out" / "last.safetensors")
    assert last.metadata.source == "DFOSD on OSEDiff"
    assert last.metadata.license == "Apache-2.0"
    assert len(last.metadata.source_sha256) == 64
    assert last.set_weights.keys() == {"lora_unet_conv_in"}
    assert last.prompt_embeds.shape == (1, 77, 64)
    # Resumed, it has the same start beneath.
    longer = replace(settings, optim=replace(settings.optim, steps=2))
    train(longer)
    assert load_lora(tmp_path / "out" / "last.safetensors").set_weights.keys() == {"lora_unet_conv_in"}


def test_validation_sees_the_exported_lora_on_the_plain_base(material: Path, tmp_path: Path) -> None:
    lora = PEERS["osediff"]().write(tmp_path)
    first = trainer(peer_config(material, tmp_path, lora, discriminator={"kind": "nad"}))
    unet = first.networks.base.unet
    assert not torch.equal(unet.conv_in.weight, first.networks.generator.unet.get_parameter("conv_in.weight"))
    assert torch.equal(unet.conv_in.weight, sd_host().unet.conv_in.weight)


def test_bad_starts_are_refused_in_one_line(material: Path, tmp_path: Path) -> None:
    lora = PEERS["osediff"]().write(tmp_path)
    settings = peer_config(material, tmp_path, lora)
    for change, message in (
        ({"base": str(material / "base")}, f"model.init_lora '{lora}': The LoRA was trained for"),
        ({"init_lora": tmp_path / "sd"}, "model.init_lora: 'sd' is a base model"),
    ):
        with pytest.raises(ConfigError) as caught:
            trainer(replace(settings, model=replace(settings.model, **change)))
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
    (tmp_path / "sd" / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="holds no text encoder, from which this LoRA's prompt comes"):
        trainer(settings)
