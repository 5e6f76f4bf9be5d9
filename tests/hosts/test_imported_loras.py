"""Other methods' LoRAs on our networks give the image of their own formula on diffusers' networks with peft."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.peers import PEERS, TOKENS, empty_prompt, encoder_tensors, pisa_sr_image, write_base, write_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel

from dfosd_core.errors import BaseModelMismatchError
from dfosd_core.hosts.own import OwnHost
from dfosd_core.lora.file import load_lora, save_lora
from dfosd_core.models import load_models
from dfosd_core.networks.reading import TEXT_ENCODER_FILES, read_empty_prompt
from dfosd_core.pipeline import upscale
from dfosd_core.settings import ModelChoice, UpscaleSettings

TOLERANCE = 1e-4
PLAIN = UpscaleSettings(scale=1.0, color_fix="none")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "sd")


@pytest.mark.parametrize("name", PEERS)
def test_image_is_the_methods_own(name: str, base: Path, tmp_path: Path) -> None:
    peer = PEERS[name]()
    choice = ModelChoice(base=str(base), lora=str(peer.write(tmp_path)), dtype="float32")
    host, lora = load_models(choice, torch.device("cpu"))
    image = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(3))
    found = upscale(image, host, lora, PLAIN)
    signed = peer.image(image.permute(0, 3, 1, 2) * 2 - 1)
    expected = (signed.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    without = upscale(image, host, lora, UpscaleSettings(scale=1.0, color_fix="none", strength=0.0))
    assert (without - expected).abs().max() > 100 * TOLERANCE
    assert load_lora(save_lora(tmp_path / "converted.safetensors", lora)) == lora


@pytest.mark.parametrize(
    ("settings", "pixel", "semantic"),
    [
        ({"strength": 0.5}, 1.0, 0.5),
        ({"strength": 0.0}, 1.0, 0.0),
        ({"strength": 1.0, "pixel_strength": 1.0}, 1.0, 1.0),
        ({"strength": 0.6, "pixel_strength": 1.4}, 1.4, 0.6),
        ({"strength": 1.5, "pixel_strength": 0.5}, 0.5, 1.5),
    ],
)
def test_pisa_srs_two_strengths(
    base: Path, tmp_path: Path, settings: dict[str, float], pixel: float, semantic: float
) -> None:
    """One pass with scaled weights, or its own rule of two passes, from a file that was converted."""
    choice = ModelChoice(base=str(base), lora=str(PEERS["pisa_sr"]().write(tmp_path)), dtype="float32")
    host, lora = load_models(choice, torch.device("cpu"))
    assert isinstance(host, OwnHost)
    lora = load_lora(save_lora(tmp_path / "converted.safetensors", lora))
    image = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(3))
    before = {name: value.clone() for name, value in host.unet.state_dict().items()}
    found = upscale(image, host, lora, dataclasses.replace(PLAIN, **settings))
    signed = pisa_sr_image(image.permute(0, 3, 1, 2) * 2 - 1, pixel, semantic, two_passes="pixel_strength" in settings)
    expected = (signed.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    plain = upscale(image, host, lora, PLAIN)
    assert ((found - plain).abs().max() > 100 * TOLERANCE) == ((pixel, semantic) != (1.0, 1.0))
    assert all(torch.equal(value, before[name]) for name, value in host.unet.state_dict().items())


@pytest.mark.parametrize("write", [write_base, write_checkpoint])
def test_empty_prompt_is_that_of_transformers(write: type, tmp_path: Path) -> None:
    found = read_empty_prompt(write(tmp_path / "sd.safetensors"), 64)
    torch.testing.assert_close(found, empty_prompt(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["text_model.", ""], ids=["transformers 4", "transformers 5"])
@pytest.mark.parametrize("name", TEXT_ENCODER_FILES)
def test_text_encoder_is_read_from_each_file_that_is_published(name: str, prefix: str, tmp_path: Path) -> None:
    """The repositories have each of these beside the other, and users download one."""
    tensors = {f"{prefix}{key.removeprefix('text_model.')}": value for key, value in encoder_tensors().items()}
    tensors = {key: value.half() if ".fp16" in name else value for key, value in tensors.items()}
    tensors[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]  # the older .bin files have it
    (tmp_path / "sd" / "text_encoder").mkdir(parents=True)
    file = tmp_path / "sd" / "text_encoder" / name
    torch.save(tensors, file) if name.endswith(".bin") else safetensors.torch.save_file(tensors, file)
    found = read_empty_prompt(tmp_path / "sd", 64)
    torch.testing.assert_close(found, empty_prompt(), rtol=0, atol=2e-2 if ".fp16" in name else 1e-5)


@pytest.mark.parametrize("name", ["text_encoder/model.safetensors", "sd.safetensors"])
def test_empty_prompt_of_sd1_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    """OpenAI's encoder with its activation, padded with the end token."""
    torch.manual_seed(8)
    config = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=1536,
        num_attention_heads=12,
        num_hidden_layers=2,
        hidden_act="quick_gelu",
        vocab_size=49408,
    )
    encoder = CLIPTextModel(config).eval().requires_grad_(False).half().float()
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.mul_(4)  # into the range where the activations differ
    state = {key.removeprefix("text_model."): value.half() for key, value in encoder.state_dict().items()}
    prefix = "text_model." if "/" in name else "cond_stage_model.transformer.text_model."
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    safetensors.torch.save_file({f"{prefix}{key}": value for key, value in state.items()}, path)
    found = read_empty_prompt(tmp_path if "/" in name else path, 768)
    expected = encoder(torch.tensor([[49406, 49407, *[49407] * 75]])).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    encoder.config.hidden_act = "gelu"
    other = CLIPTextModel(encoder.config).eval()
    other.load_state_dict(encoder.state_dict())
    for tokens in ([49406, 49407, *[49407] * 75], TOKENS):
        with torch.no_grad():
            assert (other(torch.tensor([tokens])).last_hidden_state - expected).abs().max() > 1e-2


def test_checkpoint_in_half_precision_is_taken(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "sd.safetensors")
    halves = {key: value.half() for key, value in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(halves, tmp_path / "half.safetensors")
    torch.save({"state_dict": halves}, tmp_path / "half.ckpt")
    lora = str(PEERS["omgsr"]().write(tmp_path))
    embeds = []
    for name in ("half.safetensors", "half.ckpt"):
        choice = ModelChoice(base=str(tmp_path / name), lora=lora, dtype="float32")
        embeds.append(load_models(choice, torch.device("cpu"))[1].prompt_embeds)
        torch.testing.assert_close(embeds[-1], empty_prompt(), rtol=0, atol=2e-2)
    assert torch.equal(*embeds)


def test_base_without_its_text_encoder_is_refused(base: Path, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "sd")
    file = folder / "text_encoder" / "model.safetensors"
    lora = str(PEERS["omgsr"]().write(tmp_path))
    tensors = safetensors.torch.load_file(file)
    del tensors["text_model.encoder.layers.1.mlp.fc2.weight"]
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(BaseModelMismatchError, match=r"'sd': the text encoder lacks the tensor .*fc2\.weight"):
        load_models(ModelChoice(base=str(folder), lora=lora), torch.device("cpu"))
    file.unlink()
    with pytest.raises(BaseModelMismatchError, match="'sd' holds no text encoder, from which this LoRA's prompt comes"):
        load_models(ModelChoice(base=str(folder), lora=lora), torch.device("cpu"))
    with pytest.raises(BaseModelMismatchError, match="'sd' has a text encoder of width 64, expected 1024"):
        read_empty_prompt(base, 1024)


def test_v_base_and_the_embedded_one_are_refused(base: Path, tmp_path: Path) -> None:
    """Repositories called stable-diffusion-2-1, without `base`, are the v model."""
    lora = str(PEERS["omgsr"]().write(tmp_path))
    with pytest.raises(BaseModelMismatchError, match=r"The LoRA of OMGSR-S was trained for .* but the loaded base is"):
        load_models(ModelChoice(lora=lora), torch.device("cpu"))
    folder = write_base(tmp_path / "sd")
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    expected = r"but the loaded base is .* v-prediction\): prediction_type epsilon != v_prediction"
    with pytest.raises(BaseModelMismatchError, match=expected):
        load_models(ModelChoice(base=str(folder), lora=lora), torch.device("cpu"))
