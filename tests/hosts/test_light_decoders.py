"""Light decoders: each gives its own method's image, whoever's host it is on; damaged and foreign files are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.decoders import taesd_image, taesd_tensors, vosr_decoder, write_vosr
from support.peers import PEERS, sd_host, write_base
from torch import Tensor

from dfosd_core.errors import BaseModelMismatchError, LoraMismatchError
from dfosd_core.hosts.light import LightHost
from dfosd_core.hosts.own import load_default
from dfosd_core.lora.file import LoraPair
from dfosd_core.models import load_models
from dfosd_core.networks import light_decoder
from dfosd_core.networks.complexity import macs, sd21_models
from dfosd_core.networks.light_decoder import NarrowDecoder, TinyDecoder, is_decoder, read_decoder
from dfosd_core.pipeline import upscale
from dfosd_core.settings import ModelChoice, UpscaleSettings

TOLERANCE = 1e-4
PLAIN = UpscaleSettings(scale=1.0, color_fix="none")


def latents() -> Tensor:
    """Scaled, of about Stable Diffusion's size, with a few beyond what TAESD limits."""
    z = torch.randn(2, 4, 7, 9, generator=torch.Generator().manual_seed(2))
    z[:, :, 3, 4] *= 6
    return z


def write_taesd(path: Path, tensors: dict[str, Any]) -> Path:
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    return path


def test_lists_do_not_look_into_files_above_300_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints lie in the same folders."""
    looked_into: list[str] = []

    def look(path: Path, *_: int) -> bool:
        looked_into.append(path.name)
        return True

    monkeypatch.setattr(light_decoder, "_is_decoder", look)
    for name, size in (("small.pth", 300_000_000), ("large.pth", 300_000_001)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # the disk has none of it
    assert [is_decoder(tmp_path / name) for name in ("small.pth", "large.pth")] == [True, False]
    assert looked_into == ["small.pth"]


@pytest.mark.parametrize("widths", [(64, 128, 256, 256), (32, 64, 64, 96)])
def test_narrow_decoder_is_diffusers(widths: tuple[int, ...], tmp_path: Path) -> None:
    theirs, z = vosr_decoder(widths), latents()
    ours = read_decoder(write_vosr(tmp_path / "any_name.bin", theirs))
    assert isinstance(ours, NarrowDecoder)
    with torch.no_grad():
        expected = theirs(z / 0.18215)
        torch.testing.assert_close(ours(z), expected, rtol=0, atol=TOLERANCE)
        assert expected.std() > 0.1
    tensors = {key: value.clone() for key, value in theirs.state_dict().items()}
    again = read_decoder(write_taesd(tmp_path / "x.safetensors", tensors))
    assert torch.equal(again(z), ours(z))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_tiny_decoder_is_taesd(suffix: str, tmp_path: Path) -> None:
    tensors, z = taesd_tensors(), latents()
    ours = read_decoder(write_taesd(tmp_path / f"x{suffix}", tensors))
    assert isinstance(ours, TinyDecoder)
    expected = taesd_image(tensors, z)
    torch.testing.assert_close(ours(z) / 2 + 0.5, expected, rtol=0, atol=TOLERANCE)
    assert expected.std() > 0.1


def test_tiny_decoder_sees_no_further_than_its_tiles_allow(tmp_path: Path) -> None:
    """A third of the overlap is what an outer cell may reach, so that tiles equal the whole map."""
    ours = read_decoder(write_taesd(tmp_path / "x.pth", taesd_tensors()))
    z = torch.zeros(1, 4, 48, 2)
    changed = z.clone()
    changed[:, :, 0] = 2.0
    rows = (ours(changed) != ours(z)).any(dim=3)[0].any(dim=0).nonzero()
    reach = int(rows.max()) + 1 - 8
    assert 100 < reach <= TinyDecoder.tile.overlap // 3


@pytest.mark.parametrize("kind", ["vosr", "taesd"])
def test_option_takes_the_place_of_the_bases_decoder(kind: str, tmp_path: Path) -> None:
    base, peer = write_base(tmp_path / "sd"), PEERS["osediff"]()
    decode: Callable[[Tensor], Tensor]
    if kind == "vosr":
        theirs = vosr_decoder()
        path, decode = write_vosr(tmp_path / "d.pth", theirs), lambda z: theirs(z / 0.18215)
    else:
        tensors = taesd_tensors()
        path, decode = write_taesd(tmp_path / "d.pth", tensors), lambda z: taesd_image(tensors, z) * 2 - 1
    choice = ModelChoice(base=str(base), lora=str(peer.write(tmp_path)), dtype="float32")
    plain, lora = load_models(choice, torch.device("cpu"))
    host, _ = load_models(dataclasses.replace(choice, decoder=str(path)), torch.device("cpu"))
    image = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(3))
    z_sr: list[Tensor] = []
    full_decode = plain.decode
    plain.decode = lambda z: z_sr.append(z) or full_decode(z)
    full = upscale(image, plain, lora, PLAIN)
    found = upscale(image, host, lora, PLAIN)
    with torch.no_grad():
        expected = (decode(z_sr[0]) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    assert (found - full).abs().max() > 100 * TOLERANCE
    assert host.auto_tiles(4096, 4096).unet == plain.auto_tiles(4096, 4096).unet
    assert host.auto_tiles(4096, 4096).decode.tile > plain.auto_tiles(4096, 4096).decode.tile


def test_half_precision_gives_float32_on_the_images_device(tmp_path: Path) -> None:
    decoder = read_decoder(write_taesd(tmp_path / "x.pth", taesd_tensors()), torch.bfloat16)
    host, z = LightHost(sd_host(), decoder), latents()
    x = host.decode(z)
    assert x.dtype == torch.float32
    assert (x - read_decoder(tmp_path / "x.pth")(z)).abs().max() < 0.2


def test_other_bases_and_loras_on_the_decoder_are_refused(tmp_path: Path) -> None:
    path = write_taesd(tmp_path / "x.pth", taesd_tensors())
    with pytest.raises(BaseModelMismatchError, match="4 channels at 1/8 size for the decoder, found 16 at 1/4"):
        load_models(ModelChoice(decoder=str(path)), torch.device("cpu"))
    host = LightHost(sd_host(), read_decoder(path))
    _, lora = load_default()
    metadata = dataclasses.replace(lora.metadata, parts={})
    pair = LoraPair(down=torch.zeros(1, 4, 3, 3), up=torch.zeros(32, 1, 1, 1), alpha=1.0)
    for layer in ("lora_vae_decoder_conv_in", "lora_vae_post_quant_conv"):
        with pytest.raises(LoraMismatchError, match="changes the VAE's decoder, in whose place TAESD would run"):
            host.lora(dataclasses.replace(lora, pairs={layer: pair}, metadata=metadata), 1.0)


def test_work_is_what_the_page_says() -> None:
    z = torch.empty(1, 4, 64, 64, device="meta")
    vae, narrow = sd21_models()[1], vosr_decoder().to("meta")
    with torch.device("meta"):
        tiny = TinyDecoder()
    found = [macs(vae, lambda: vae.decode(z)), macs(narrow, lambda: narrow(z)), macs(tiny, lambda: tiny.layers(z))]
    assert [round(value / 1e9) for value in found] == [1240, 310, 71]


def refused(path: Path) -> str:
    with pytest.raises(BaseModelMismatchError) as caught:
        read_decoder(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "expected": lambda x: x[:-1],
    "found a list": lambda x: [1.0],
    "found torch.int32": lambda x: x.int(),
    "not finite": lambda x: torch.full_like(x, float("nan")),
}


@pytest.mark.parametrize("words", CHANGES)
@pytest.mark.parametrize("kind", ["vosr", "taesd"])
@pytest.mark.parametrize("where", [0.2, 0.45, 0.99])
def test_changed_tensor_is_refused(kind: str, words: str, where: float, tmp_path: Path) -> None:
    tensors: dict[str, Any] = (
        dict(vosr_decoder((32, 32, 32, 32), 1).state_dict()) if kind == "vosr" else taesd_tensors()
    )
    key = sorted(tensors)[int(where * len(tensors))]
    tensors[key] = CHANGES[words](tensors[key])
    message = refused(write_taesd(tmp_path / "x.pth", tensors))
    assert words in message
    assert key in message


@pytest.mark.parametrize("kind", ["vosr", "taesd"])
def test_missing_extra_and_cut_off_are_refused(kind: str, tmp_path: Path) -> None:
    whole: dict[str, Any] = dict(vosr_decoder((32, 32, 32, 32), 1).state_dict()) if kind == "vosr" else taesd_tensors()
    for key in (
        "conv_norm_out.weight",
        "up_blocks.1.resnets.0.conv1.weight",
        "conv_in.weight",
        "1.weight",
        "3.conv.0.bias",
    ):
        if key in whole:
            refused(write_taesd(tmp_path / "x.pth", {k: v for k, v in whole.items() if k != key}))
    assert "it has besides extra" in refused(write_taesd(tmp_path / "x.pth", {**whole, "extra": torch.zeros(1)}))
    blob = write_taesd(tmp_path / "x.pth", whole).read_bytes()
    for part in (0.0, 0.01, 0.5, 0.999):
        (tmp_path / "x.pth").write_bytes(blob[: int(part * len(blob))])
        refused(tmp_path / "x.pth")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    assert "There is no decoder" in refused(tmp_path / "gone.pth")
    assert "decodes latents of 16 channels, expected 4" in refused(write_taesd(tmp_path / "f.pth", taesd_tensors(16)))
    lora = {"lora_unet_conv_in.lora_down.weight": torch.zeros(1)}
    expected = "is no light decoder that DFOSD knows: expected VOSR's sd21_lwdecoder or TAESD's"
    assert expected in refused(write_taesd(tmp_path / "l.safetensors", lora))
    torch.save({"model_state_dict": [1]}, tmp_path / "e.pth")
    assert expected in refused(tmp_path / "e.pth")
    (tmp_path / "text.safetensors").write_text("hello")
    refused(tmp_path / "text.safetensors")


class Harm:
    """Unpickled as it asks for, this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    torch.save({**taesd_tensors(), "x": Harm(victim)}, tmp_path / "x.pth")
    assert "found io.open, which was not loaded or run" in refused(tmp_path / "x.pth")
    assert not victim.exists()


def test_lists_show_decoders_alone(tmp_path: Path) -> None:
    names = ("taesd_decoder.safetensors", "taesdxl_decoder.safetensors", "taesd_decoder.txt")
    for name in names:
        safetensors.torch.save_file(taesd_tensors(), tmp_path / name)
    assert [is_decoder(tmp_path / name) for name in names] == [True, False, False]
    assert not is_decoder(tmp_path / "gone.safetensors")
    assert not is_decoder(tmp_path / "gone.txt")
