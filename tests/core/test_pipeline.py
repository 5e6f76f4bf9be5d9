from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dfosd_core import images, pipeline
from dfosd_core.color_fix import wavelet
from dfosd_core.errors import BaseModelMismatchError, ConfigError, ImageFileError
from dfosd_core.lora.file import DfosdLora
from dfosd_core.pipeline import Progress, UpscaleSettings, upscale, upscale_attached
from dfosd_core.tiles.size import TileSize

MakeHost = Callable[..., Any]
NO_FIX = UpscaleSettings(color_fix="none")


@pytest.mark.parametrize("rule", ["eps-x0", "residual"])
@pytest.mark.parametrize("latent_factor", [4, 8])
def test_upscale_equals_the_plain_computation(
    make_host: MakeHost, tiny_lora: DfosdLora, latent_factor: int, rule: str
) -> None:
    host, image = make_host(latent_factor), torch.rand(1, 16, 32, 3)
    metadata = SimpleNamespace(timestep=399, rule=rule, base_model="tiny", parts={})
    tiny_lora = cast("DfosdLora", SimpleNamespace(prompt_embeds=tiny_lora.prompt_embeds, metadata=metadata))
    x_lr = functional.interpolate(
        image.permute(0, 3, 1, 2), size=(64, 128), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    z_lr = host.encode(x_lr * 2 - 1)
    eps = host.predict_eps(z_lr, 399, tiny_lora.prompt_embeds)
    z_sr = (z_lr - 0.757570 * eps) / 0.652755 if rule == "eps-x0" else z_lr - eps
    x_sr = host.decode(z_sr) / 2 + 0.5
    for settings, expected in ((NO_FIX, x_sr), (UpscaleSettings(), wavelet(x_sr.clone(), x_lr))):
        result = upscale(image, host, tiny_lora, settings)
        torch.testing.assert_close(result, expected.clamp(0, 1).permute(0, 2, 3, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("latent_factor", [4, 8])
def test_tiled_equals_untiled(make_host: MakeHost, tiny_lora: DfosdLora, latent_factor: int) -> None:
    image = torch.rand(1, 57, 41, 3)
    untiled = upscale(image, make_host(latent_factor), tiny_lora)
    host = make_host(latent_factor, TileSize(24 * latent_factor, 12 * latent_factor))
    tiled = upscale(image, host, tiny_lora)
    assert host.largest_px <= 24 * latent_factor
    assert (tiled - untiled).abs().max() < 2 / 255
    assert (tiled - untiled).abs().mean() < 1e-5


@pytest.mark.parametrize("channels", [3, 4])
def test_cut_image_is_the_middle_of_the_whole(make_host: MakeHost, tiny_lora: DfosdLora, channels: int) -> None:
    """The networks see the part alone, so near its edges they may say something else."""
    image = torch.rand(1, 60, 12, channels)
    whole = upscale(image, make_host(8), tiny_lora, UpscaleSettings(scale=4.0, color_fix="none"))
    cut = upscale(image, make_host(8), tiny_lora, UpscaleSettings(width=48, height=176, color_fix="none"))
    assert cut.shape == (1, 176, 48, channels)
    torch.testing.assert_close(cut[:, 80:96], whole[:, 112:128], rtol=0, atol=1e-5)
    assert torch.equal(cut[..., 3:], whole[:, 32:208, :, 3:])


@pytest.mark.parametrize("channels", [3, 4])
def test_padded_image_is_the_whole_between_bars(make_host: MakeHost, tiny_lora: DfosdLora, channels: int) -> None:
    image = torch.rand(2, 20, 12, channels)
    whole = upscale(image, make_host(8), tiny_lora)
    padded = upscale(image, make_host(8), tiny_lora, UpscaleSettings(width=101, height=80, fit="pad"))
    assert padded.shape == (2, 80, 101, channels)
    assert torch.equal(padded[:, :, 26:74], whole)
    assert padded[:, :, :26].abs().max() == padded[:, :, 74:].abs().max() == 0


def test_images_of_a_batch_are_independent_and_repeatable(make_host: MakeHost, tiny_lora: DfosdLora) -> None:
    batch, host = torch.rand(3, 9, 14, 4), make_host(8, TileSize(32, 16))
    together = upscale(batch, host, tiny_lora)
    for i in range(3):
        assert torch.equal(upscale(batch[i : i + 1], host, tiny_lora), together[i : i + 1])


def test_alpha_is_resized_and_does_not_touch_the_colours(make_host: MakeHost, tiny_lora: DfosdLora) -> None:
    rgba, host = torch.rand(1, 12, 10, 4), make_host(8)
    result = upscale(rgba, host, tiny_lora, UpscaleSettings(scale=2.5))
    alpha = images.resize(rgba[..., 3][:, None], (30, 25)).clamp(0, 1)
    assert torch.equal(result[..., 3], alpha[:, 0])
    assert torch.equal(result[..., :3], upscale(rgba[..., :3], host, tiny_lora, UpscaleSettings(scale=2.5)))
    opaque = upscale(rgba.index_fill(3, torch.tensor(3), 1.0), host, tiny_lora)
    torch.testing.assert_close(opaque[..., 3], torch.ones(1, 48, 40))


@pytest.mark.parametrize("fix", ["wavelet", "adain", "none"])
def test_colours_under_transparency_leave_no_trace(make_host: MakeHost, tiny_lora: DfosdLora, fix: str) -> None:
    """An object on nothing comes out the same, whatever the file holds where nothing is seen."""
    alpha = torch.zeros(1, 20, 20, 1)
    alpha[:, 5:14, 6:15] = 1.0
    inside, hidden = torch.rand(1, 20, 20, 3), torch.rand(1, 20, 20, 3)
    settings, host = UpscaleSettings(color_fix=fix), make_host(8)
    over_black, over_noise = (
        upscale(torch.cat([inside * alpha + colour * (1 - alpha), alpha], -1), host, tiny_lora, settings)
        for colour in (torch.zeros(3), hidden)
    )
    assert torch.equal(over_black, over_noise)


def test_equal_channels_in_equal_channels_out(make_host: MakeHost, tiny_lora: DfosdLora) -> None:
    grey = torch.rand(1, 12, 10, 1).expand(1, 12, 10, 3)
    for image in (grey, torch.cat([grey, torch.rand(1, 12, 10, 1)], -1)):
        for fix in ("wavelet", "lab", "none"):
            result = upscale(image, make_host(8), tiny_lora, UpscaleSettings(color_fix=fix))
            assert torch.equal(result[..., :1].expand(-1, -1, -1, 3), result[..., :3])


def test_input_is_kept_and_no_gradient_is_recorded(make_host: MakeHost, tiny_lora: DfosdLora) -> None:
    image = torch.rand(1, 8, 8, 3, requires_grad=True)
    before = image.detach().clone()
    result = upscale(image, make_host(8), tiny_lora, UpscaleSettings(scale=1.0, color_fix="none"))
    assert not result.requires_grad
    assert torch.equal(image, before)


def test_half_precision_images_come_back_in_float32(make_host: MakeHost, tiny_lora: DfosdLora) -> None:
    image = torch.rand(1, 8, 8, 3).half()
    result = upscale(image, make_host(8), tiny_lora)
    assert result.dtype == torch.float32
    assert torch.equal(result, upscale(image.float(), make_host(8), tiny_lora))


def test_stages_run_one_after_another_with_one_progress(make_host: MakeHost, tiny_lora: DfosdLora) -> None:
    seen: list[Progress] = []
    host = make_host(4, TileSize(64, 16))
    upscale(torch.rand(2, 30, 20, 3), host, tiny_lora, progress=seen.append)
    phases = [p.phase for p in seen]
    tiles = len(phases) // 6
    assert tiles > 1
    assert phases == (["encode"] * tiles + ["unet"] * tiles + ["decode"] * tiles) * 2
    assert [(p.done, p.total) for p in seen] == [(i + 1, len(seen)) for i in range(len(seen))]


@pytest.mark.parametrize("phase", ["encode", "unet", "decode"])
def test_interruption_passes_through_and_detaches_the_lora(
    make_host: MakeHost, tiny_lora: DfosdLora, phase: str
) -> None:
    host = make_host(8, TileSize(32, 16))

    def interrupt(progress: Progress) -> None:
        assert host.attached == [0.5]
        if progress.phase == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale(torch.rand(1, 20, 20, 3), host, tiny_lora, UpscaleSettings(strength=0.5), interrupt)
    assert host.attached == []


def test_lora_is_attached_once_for_many_images(make_host: MakeHost, tiny_lora: DfosdLora) -> None:
    host, image = make_host(8), torch.rand(1, 8, 8, 3)
    with host.lora(tiny_lora, 1.0):
        attached = upscale_attached(image, host, tiny_lora, UpscaleSettings())
        assert host.attached == [1.0]
    assert torch.equal(attached, upscale(image, host, tiny_lora))


def test_out_of_memory_is_met_with_smaller_tiles(make_host: MakeHost, tiny_lora: DfosdLora) -> None:
    image, seen = torch.rand(2, 60, 64, 3), list[Progress]()
    expected = upscale(image, make_host(4), tiny_lora)
    short = make_host(4)
    short.limit_px = 130
    result = upscale(image, short, tiny_lora, progress=seen.append)
    assert short.largest_px <= 130
    assert (result - expected).abs().max() < 2 / 255
    assert seen[-1].done == seen[-1].total == len(seen)


def test_out_of_memory_with_the_smallest_tiles_says_so(make_host: MakeHost, tiny_lora: DfosdLora) -> None:
    host = make_host(8)
    host.limit_px = 100
    with pytest.raises(torch.cuda.OutOfMemoryError, match="even with tiles of 16 latents. Free some memory"):
        upscale(torch.rand(1, 64, 64, 3), host, tiny_lora)
    assert host.attached == []


@pytest.mark.parametrize(
    "image",
    [torch.rand(8, 8, 3), torch.rand(1, 8, 8, 1), torch.rand(1, 0, 8, 3), torch.zeros(1, 8, 8, 3).byte()],
)
def test_other_shapes_and_types_are_refused(make_host: MakeHost, tiny_lora: DfosdLora, image: Tensor) -> None:
    with pytest.raises(ImageFileError) as caught:
        upscale(image, make_host(8), tiny_lora)
    assert "Expected float images of shape (B, H, W, 3 or 4) in [0, 1]" in str(caught.value)
    assert f"found {image.dtype} {tuple(image.shape)}. Convert to RGB or RGBA first." in str(caught.value)


def test_wrong_base_is_refused_early(make_host: MakeHost, tiny_lora: DfosdLora) -> None:
    host = make_host(8)
    host.layout = dataclasses.replace(host.layout, context_dim=768)
    with pytest.raises(BaseModelMismatchError) as caught:
        upscale(torch.rand(1, 8, 8, 3), host, tiny_lora)
    assert str(caught.value) == (
        "The LoRA was trained for a base with context 8, but the loaded base has context 768. "
        "Load the base named in the LoRA: tiny."
    )


def test_target_edge_out_of_reach_is_refused_before_any_work(make_host: MakeHost, tiny_lora: DfosdLora) -> None:
    host = make_host(8)
    with pytest.raises(ConfigError, match="Expected a long_edge from 8 to 64 for a 8x8 image"):
        upscale(torch.rand(1, 8, 8, 3), host, tiny_lora, UpscaleSettings(long_edge=65))
    assert host.largest_px == 0


def test_the_network_sees_no_value_outside_its_range(
    make_host: MakeHost, tiny_lora: DfosdLora, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, seen = make_host(8), list[Tensor]()
    monkeypatch.setattr(host, "encode", lambda x: seen.append(x) or torch.zeros(1, 4, 8, 8))
    checkers = (torch.arange(16)[:, None] // 4 + torch.arange(16) // 4).remainder(2).float()
    pipeline.upscale(checkers[None, :, :, None].expand(1, 16, 16, 3), host, tiny_lora)
    assert (seen[0].min(), seen[0].max()) == (-1.0, 1.0)
