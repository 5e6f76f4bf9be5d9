"""Our own networks: they have diffusers' names and shapes, and give diffusers' images."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import skimage
import torch
from PIL import Image
from support.diffusers_host import load_default_with_diffusers, own_twin
from support.tiny_models import ldm_tensors, random_lora, tiny_host, write_folder
from test_own_host import weights_hash
from torch import Tensor, nn

from dfosd_core.errors import BaseModelMismatchError
from dfosd_core.hosts.own import load_base, load_default
from dfosd_core.networks.embedded import DEFAULT_BASE, DEFAULT_WEIGHTS
from dfosd_core.networks.sd_configs import unet_config, vae_config
from dfosd_core.networks.unet import build_unet
from dfosd_core.networks.vae import build_vae
from dfosd_core.pipeline import UpscaleSettings, upscale
from dfosd_core.training import base as training

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5
"""Of latents and images of about 1, float32: group norms sum in another order where the memory order differs."""

DEEPER = unet_config(
    block_out_channels=(64, 64, 128), layers_per_block=2, attention_levels=(True, True, False), context_dim=24
)
LAYOUTS: dict[str, dict[str, Any]] = {
    "sd2": {},
    "sd2-v": {"prediction_type": "v_prediction"},
    "sd1": {"attention_head_dim": 8, "use_linear_projection": False},
    "deeper": DEEPER,
}


def photograph(size: int) -> Tensor:
    """A square of a photograph, (1, size, size, 3) in [0, 1]."""
    with Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png") as image:
        part = image.convert("RGB").crop((120, 80, 120 + size, 80 + size))
    return torch.frombuffer(bytearray(part.tobytes()), dtype=torch.uint8).view(1, size, size, 3).float() / 255


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("size", [(16, 24), (26, 14)])  # in pixels; the latter leaves odd maps on the way
def test_each_stage_is_diffusers(kind: str, size: tuple[int, int]) -> None:
    theirs = tiny_host(**LAYOUTS[kind])
    ours, lora = own_twin(tiny_host(**LAYOUTS[kind])), random_lora(theirs)
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(4)) * 2 - 1
    z = theirs.encode(x)
    torch.testing.assert_close(ours.encode(x), z, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(ours.decode(z), theirs.decode(z), rtol=0, atol=TOLERANCE)
    with ours.lora(lora, 0.7), theirs.lora(lora, 0.7):
        expected = theirs.predict_eps(z, 399, lora.prompt_embeds)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours.predict_eps(z, 399, lora.prompt_embeds), expected, rtol=0, atol=TOLERANCE)
    assert ours.layout == theirs.layout


def test_embedded_default_is_diffusers() -> None:
    (theirs, lora), (ours, _) = load_default_with_diffusers(torch.float32), load_default()
    image, settings = photograph(32), UpscaleSettings(strength=0.7)
    expected = upscale(image, theirs, lora, settings)
    torch.testing.assert_close(upscale(image, ours, lora, settings), expected, rtol=0, atol=TOLERANCE)
    (theirs_bf16, _), (ours_bf16, _) = load_default_with_diffusers(torch.bfloat16), load_default(torch.bfloat16)
    # Folded, ours rounds elsewhere, and less often.
    off = [(upscale(image, host, lora, settings) - expected).square().mean() for host in (ours_bf16, theirs_bf16)]
    assert 0 < off[0] < off[1]
    assert ours.layout == theirs.layout
    assert ours.size_multiple_px == theirs.size_multiple_px
    assert ours.auto_tiles(4096, 4096) == theirs.auto_tiles(4096, 4096)


WITHOUT_DIFFUSERS = """
import sys
for name in ("diffusers", "transformers", "peft", "accelerate", "huggingface_hub"):
    sys.modules[name] = None  # from now on, importing it is an error
import torch
from dfosd_core.hosts.own import load_default
from dfosd_core.pipeline import upscale
host, lora = load_default()
torch.save(upscale(torch.load(sys.argv[1]), host, lora), sys.argv[2])
brought = {name.partition(".")[0] for name in sys.modules if not name.startswith("_")}
print(*sorted(brought & {"PIL", "cv2", "gradio", "matplotlib", "scipy", "skimage"}))
"""


def test_photograph_is_upscaled_where_there_is_no_diffusers(tmp_path: Path) -> None:
    image = photograph(48)
    torch.save(image, tmp_path / "in.pt")
    command = [sys.executable, "-c", WITHOUT_DIFFUSERS, str(tmp_path / "in.pt"), str(tmp_path / "out.pt")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
    host, lora = load_default_with_diffusers(torch.float32)
    # Another process may have other threads, which sum in another order.
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), upscale(image, host, lora), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "unet", [unet_config(), unet_config(context_dim=768, linear_projection=False), DEEPER], ids=["sd2", "sd1", "deeper"]
)
def test_unet_has_diffusers_names_and_shapes(unet: dict[str, Any]) -> None:
    assert shapes(build_unet(unet, "unet")) == shapes(training.build_unet(unet))


def test_vae_has_diffusers_names_and_shapes() -> None:
    assert shapes(build_vae(vae_config(), "vae")) == shapes(training.build_vae(vae_config()))


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["sd2", "sd1"])
def test_folder_and_single_file_give_the_same_weights(tmp_path: Path, kind: str) -> None:
    source = tiny_host(**LAYOUTS[kind])
    folder = write_folder(tmp_path / "folder", source, {"prediction_type": "v_prediction"})
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(ldm_tensors(source), file, {"modelspec.prediction_type": "v"})
    for loaded in (load_base(folder), load_base(file)):
        for ours, theirs in ((loaded.unet, source.unet), (loaded.vae, source.vae)):
            expected = theirs.state_dict()
            assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
        assert loaded.layout.prediction_type == "v_prediction"
        assert not any(p.requires_grad for model in (loaded.unet, loaded.vae) for p in model.parameters())
        assert not loaded.unet.training


def test_weights_loaded_in_inference_mode_can_be_merged_outside_of_it() -> None:
    with torch.inference_mode():
        host, lora = load_default()
    before = weights_hash(host.unet, host.vae)
    with host.lora(lora, 1.0):
        assert weights_hash(host.unet, host.vae) != before
    assert weights_hash(host.unet, host.vae) == before


# --- what is refused


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"addition_embed_type": "text_time"}, "is an SDXL, unCLIP or other model"),
        ("unet", {"transformer_layers_per_block": [1, 2]}, r"transformer_layers_per_block is \[1, 2\], expected 1"),
        ("unet", {"only_cross_attention": True}, "only_cross_attention is True, expected False"),
        ("unet", {"layers_per_block": [1, 1]}, r"layers_per_block is \[1, 1\], expected a whole number from 1 to 16"),
        ("unet", {"down_block_types": ["CrossAttnDownBlock2D", "AttnDownBlock2D"]}, "expected one of DownBlock2D, Cr"),
        ("unet", {"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "expected attention at the same levels"),
        ("vae", {"use_quant_conv": False}, "use_quant_conv is False, expected True"),
        ("vae", {"down_block_types": ["DownEncoderBlock2D"]}, "expected one of DownEncoderBlock2D for each level"),
    ],
)
def test_other_layouts_are_refused_in_one_line(tmp_path: Path, part: str, change: dict[str, Any], message: str) -> None:
    folder = write_folder(tmp_path / "folder", tiny_host())
    file = folder / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(BaseModelMismatchError, match=message) as error:
        load_base(folder)
    assert str(error.value).startswith("'folder' is ")
    assert str(error.value).endswith("Give SD 2.1-base.")
    assert "\n" not in str(error.value)


def test_missing_default_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelMismatchError, match="The embedded default is incomplete: there is no '.*small_base'"):
        load_default(weights=tmp_path)
    assert (DEFAULT_WEIGHTS / DEFAULT_BASE).is_dir()


def test_loaded_convolutions_have_their_channels_last() -> None:
    host, _ = load_default(torch.float32, "cpu")
    weights = [weight for weight in host.unet.parameters() if weight.ndim == 4 and 1 not in weight.shape]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
