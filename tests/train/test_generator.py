"""The generator and its LoRA layers: what trains, what is frozen, and the file that comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from support.diffusers_host import DiffusersHost
from support.small_networks import CONTEXT_DIM, RANK, images, rng, small_pair, small_unet, small_vae, snapshot
from support.tiny_models import TINY_UNET, TINY_VAE
from torch import nn

from dfosd_core.lora.file import load_lora, save_lora
from dfosd_core.lora.metadata import LoraMetadata
from dfosd_core.one_step import predict_z_sr
from dfosd_core.training.base import build_unet, build_vae, layout_of
from dfosd_core.training.generator import DfosdGenerator
from dfosd_core.training.lora_layers import LoraLayer, frozen, inject_lora, share_weights, trainable_parameters


def randomise_lora(network: nn.Module) -> None:
    for index, layer in enumerate(m for m in network.modules() if isinstance(m, LoraLayer)):
        layer.up_weight.data = torch.randn(layer.up_weight.shape, generator=rng(index)) * 0.1


def metadata_of(generator: DfosdGenerator, unet: UNet2DConditionModel) -> LoraMetadata:
    return LoraMetadata(
        base_layout=layout_of(unet, cast("Any", generator.vae), "epsilon"),
        timestep=generator.t,
        rank=generator.rank,
        lora_alpha=generator.lora_alpha,
    )


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, stride=2, padding=1)])
def test_lora_layer_equals_layer_with_merged_weight(layer: nn.Linear | nn.Conv2d) -> None:
    lora = LoraLayer(layer, 2, 3.0, rng())
    x = torch.randn(2, 6) if isinstance(layer, nn.Linear) else torch.randn(2, 6, 8, 8)
    assert torch.equal(lora(x), layer(x)), "at the start the change is zero"
    lora.up_weight.data.normal_()
    actual = lora(x)
    delta = 1.5 * lora.up_weight.flatten(1) @ lora.down_weight.flatten(1)
    layer.weight.data += delta.view_as(layer.weight)
    torch.testing.assert_close(actual, layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.Conv2d(6, 5, 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_branch_and_merged_weight_have_the_same_output_and_gradients(
    layer: nn.Linear | nn.Conv2d, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = cast("Any", LoraLayer(layer.requires_grad_(False), 4, 3.0, rng())).to(memory_format=memory_format)
    lora.up_weight.data.normal_(generator=rng(1))
    x = torch.randn((2, 7, 6) if isinstance(layer, nn.Linear) else (2, 6, 9, 9), generator=rng(2), requires_grad=True)
    found: list[list[torch.Tensor]] = []
    for merges in (False, True):
        monkeypatch.setattr(LoraLayer, "merges", lambda *_, merges=merges: merges)
        y = lora(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), (x, lora.down_weight, lora.up_weight))])
    for branch, merged in zip(*found, strict=True):
        torch.testing.assert_close(merged, branch, rtol=1e-4, atol=1e-4)


def test_weight_is_merged_where_that_takes_fewer_multiplications() -> None:
    small, large = (nn.Conv2d(width, width, 3, padding=1) for width in (32, 320))
    x = torch.zeros(2, 32, 24, 24)
    lora = LoraLayer(small, 24, 24.0, rng())
    assert lora.merges(x), "rank near the width"
    assert not lora.merges(x[..., :2, :2]), "the product is made for four places only"
    assert not LoraLayer(small, 2, 2.0, rng()).merges(x)
    sd = LoraLayer(large, 16, 16.0, rng())
    assert not sd.merges(torch.zeros(1, 320, 64, 64)), "SD 2.1 at the paper's rank"
    with frozen(sd):
        assert sd.merges(torch.zeros(1, 320, 64, 64)), "no gradient of the weight is needed"


def test_merged_change_is_made_in_float32_under_autocast() -> None:
    lora = LoraLayer(nn.Linear(6, 5).requires_grad_(False), 4, 4.0, rng())
    lora.up_weight.data.normal_(generator=rng(1))
    with torch.autocast("cpu", torch.bfloat16):
        weight = lora.merged_weight()
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, lora.base.weight + lora.up_weight @ lora.down_weight)


def test_lora_equals_peft_on_the_same_matrices() -> None:
    ours, theirs = small_unet(), small_unet()
    count = inject_lora(ours, RANK, 2.0, rng())
    randomise_lora(ours)
    names = [name for name, module in ours.named_modules() if isinstance(module, LoraLayer)]
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=2, target_modules=names), theirs)
    for name in names:
        layer, other = ours.get_submodule(name), cast("Any", theirs.get_submodule(name))
        other.lora_A["default"].weight.data = layer.down_weight.data
        other.lora_B["default"].weight.data = layer.up_weight.data
    z, prompt = torch.randn(1, 4, 8, 8), torch.randn(1, 3, CONTEXT_DIM)
    with torch.no_grad():
        expected = theirs(z, 399, prompt).sample
        torch.testing.assert_close(ours(z, 399, prompt).sample, expected, rtol=1e-4, atol=1e-5)
    assert len(names) == count


def test_lora_start_depends_on_the_generator_alone() -> None:
    first, again, other = (LoraLayer(nn.Linear(6, 5), 2, 2.0, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.down_weight, again.down_weight)
    assert not torch.equal(first.down_weight, other.down_weight)
    assert first.down_weight.abs().max() <= 6**-0.5


def test_forward_follows_the_paper_at_the_start() -> None:
    unet, vae = small_unet(), cast("Any", small_vae())
    generator = DfosdGenerator(vae, unet, rank=RANK, lora_alpha=RANK, rng=rng())
    x_lr = images()
    with torch.no_grad():
        z_sr, x_sr = generator(x_lr)
        z_lr = vae.encode(x_lr).latent_dist.mode() * 0.5
        eps = unet(z_lr, 399, generator.prompt_embeds.expand(2, -1, -1)).sample
        torch.testing.assert_close(z_sr, 1.5320 * z_lr - 1.1606 * eps, rtol=1e-3, atol=1e-4)
        assert torch.equal(z_sr, predict_z_sr(z_lr, eps, 399))
        torch.testing.assert_close(x_sr, vae.decode(z_sr / 0.5).sample)
    assert generator.prompt_embeds.shape == (1, 77, CONTEXT_DIM)
    assert generator.prompt_embeds.std().item() == pytest.approx(0.02, rel=0.1)


def test_latent_is_the_mean_or_a_sample_of_the_posterior() -> None:
    generator, _ = small_pair()
    x = images()
    mean, sample, again = generator.encode(x), generator.encode(x, rng(3)), generator.encode(x, rng(3))
    std = cast("Any", generator.vae).encode(x).latent_dist.std * 0.5
    noise = torch.randn(mean.shape, generator=rng(3))
    assert torch.equal(sample, again)
    torch.testing.assert_close(sample, mean + std * noise)
    assert not sample.requires_grad


def test_output_is_float32_under_autocast() -> None:
    generator, _ = small_pair()
    with torch.autocast("cpu", torch.bfloat16):
        z_sr, x_sr = generator(images(), rng())
    assert z_sr.dtype == x_sr.dtype == torch.float32
    exact, _ = generator(images(), rng())
    assert (z_sr - exact).abs().max() < 0.05 * exact.abs().max()


def test_only_lora_and_prompt_train() -> None:
    generator, _ = small_pair()
    trained = snapshot(generator, trainable=True)
    suffixes = ("down.weight", "up.weight")
    assert all(name == "prompt_embeds" or name.endswith(suffixes) for name in trained)
    assert len(trained) == 2 * generator.lora_layers + 1 == len(trainable_parameters(generator))
    loss = generator(images(), rng())[1].square().mean()
    loss.backward()
    ups = [m.up_weight.grad for m in generator.modules() if isinstance(m, LoraLayer)]
    assert all(grad is not None and grad.abs().max() > 0 for grad in ups)
    assert generator.prompt_embeds.grad.abs().max() > 0


def test_base_keeps_its_modules_and_shares_its_tensors() -> None:
    unet = small_unet()
    before = list(unet.state_dict())
    generator = DfosdGenerator(small_vae(), unet, rank=RANK, lora_alpha=RANK, rng=rng())
    assert list(unet.state_dict()) == before
    ours = {parameter.data_ptr() for parameter in generator.unet.parameters()}
    assert all(parameter.data_ptr() in ours for parameter in unet.parameters())
    generator.to(torch.float64)
    assert unet.conv_in.weight.data_ptr() == generator.unet.get_parameter("conv_in.weight").data_ptr()


def test_share_weights_shares_buffers_too() -> None:
    norm = nn.BatchNorm1d(3)
    copy = share_weights(norm)
    assert copy is not norm
    assert copy.running_mean is norm.running_mean


def test_exported_lora_gives_the_same_latent_in_a_host(tmp_path: Path) -> None:
    unet, vae = small_unet(), small_vae()
    generator = DfosdGenerator(vae, unet, t=250, rank=RANK, lora_alpha=2.0, rng=rng())
    randomise_lora(generator)
    lora = generator.export_lora(metadata_of(generator, unet))
    assert load_lora(save_lora(tmp_path / "lora.safetensors", lora)) == lora
    host = DiffusersHost(unet, vae, lora.metadata.base_layout)
    with torch.no_grad():
        z_sr, x_sr = generator(images())
    with host.lora(lora, 1.0):
        z_lr = host.encode(images())
        actual = predict_z_sr(z_lr, host.predict_eps(z_lr, 250, lora.prompt_embeds), 250)
        torch.testing.assert_close(actual, z_sr, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(host.decode(actual), x_sr, rtol=1e-4, atol=1e-4)


def test_exported_lora_is_a_copy_in_the_wanted_dtype() -> None:
    unet = small_unet()
    generator = DfosdGenerator(small_vae(), unet, rank=RANK, lora_alpha=RANK, rng=rng())
    lora = generator.export_lora(metadata_of(generator, unet), torch.float16)
    with torch.no_grad():
        for parameter in trainable_parameters(generator):
            parameter.zero_()
    assert {tensor.dtype for pair in lora.pairs.values() for tensor in (pair.up, pair.down)} == {torch.float16}
    assert all(pair.down.abs().max() > 0 for pair in lora.pairs.values())
    assert len(lora.pairs) == generator.lora_layers
    assert lora.prompt_embeds.dtype == torch.float16


def test_generator_is_the_papers_where_nothing_else_is_said() -> None:
    """Rank and alpha are stated in arXiv 2410.04224; T_L is that of its relatives with public code."""
    generator = DfosdGenerator(small_vae(), small_unet(), rng=rng())
    assert (generator.rank, generator.lora_alpha, generator.t) == (16, 16.0, 399)
    layers = [module for module in generator.unet.modules() if isinstance(module, LoraLayer)]
    assert {layer.down_weight.shape[0] for layer in layers} == {16}


def test_export_refuses_metadata_of_another_training() -> None:
    unet = small_unet()
    generator = DfosdGenerator(small_vae(), unet, rank=RANK, lora_alpha=RANK, rng=rng())
    metadata = metadata_of(generator, unet)
    generator.t = 250
    with pytest.raises(ValueError, match=r"metadata says \(399, 4, 4.0, 'eps-x0'\).*has \(250, 4, 4.0, 'eps-x0'\)"):
        generator.export_lora(metadata)


def test_base_is_built_frozen_and_in_evaluation() -> None:
    for network in (build_unet(TINY_UNET), build_vae(TINY_VAE)):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
