"""Loading a base: folder and single file give the same weights, the layout is read from the files, the rest
is refused.
"""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.diffusers_host import DiffusersHost
from support.tiny_models import ldm_tensors, random_lora, tiny_host, write_folder
from torch import Tensor

from dfosd_core.errors import BaseModelMismatchError
from dfosd_core.hosts.own import OwnHost, load_base, load_default
from dfosd_core.lora.file import save_lora
from dfosd_core.lora.names import ldm_unet_key, ldm_vae_key
from dfosd_core.networks.ldm_file import V_BIAS, read_single_file
from dfosd_core.networks.sd_configs import unet_config, vae_config
from dfosd_core.training.base import build_unet, build_vae


@pytest.fixture(scope="module")
def host() -> DiffusersHost:
    return tiny_host()


@pytest.fixture(scope="module")
def sd1_host() -> DiffusersHost:
    return tiny_host(attention_head_dim=8, use_linear_projection=False)


def same_weights(a: OwnHost, b: DiffusersHost) -> bool:
    pairs = [(a.unet.state_dict(), b.unet.state_dict()), (a.vae.state_dict(), b.vae.state_dict())]
    return all(x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x) for x, y in pairs)


def image_of(host: OwnHost) -> Tensor:
    lora = random_lora(host)
    x = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with host.lora(lora, 1.0):
        return host.decode(host.predict_eps(host.encode(x), 399, lora.prompt_embeds))


@pytest.mark.parametrize("kind", ["sd2", "sd1"])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_folder_and_single_file_give_the_same_image_bit_for_bit(
    tmp_path: Path, host: DiffusersHost, sd1_host: DiffusersHost, kind: str, suffix: str
) -> None:
    source = host if kind == "sd2" else sd1_host
    folder = write_folder(tmp_path / "folder", source)
    file = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": ldm_tensors(source), "global_step": 1}, file)
    else:
        safetensors.torch.save_file(ldm_tensors(source), file)
    from_folder, from_file = load_base(folder), load_base(file)
    assert same_weights(from_folder, source)
    assert same_weights(from_file, source)
    assert from_file.layout == from_folder.layout == source.layout
    assert torch.equal(image_of(from_file), image_of(from_folder))


def test_loaded_models_are_in_evaluation_mode_without_gradients(tmp_path: Path, host: DiffusersHost) -> None:
    loaded = load_base(write_folder(tmp_path / "folder", host))
    for model in (loaded.unet, loaded.vae):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("ending", [".bin", ".fp16.safetensors", ".fp16.bin"])
def test_other_weight_files_of_a_folder_are_read(tmp_path: Path, host: DiffusersHost, ending: str) -> None:
    loaded = load_base(write_folder(tmp_path / "folder", host, weights=ending))
    expected = host.unet.conv_in.weight.half().float() if "fp16" in ending else host.unet.conv_in.weight
    assert loaded.unet.conv_in.weight.dtype == torch.float32
    assert torch.equal(loaded.unet.conv_in.weight, expected)


def test_dtype_is_the_one_asked_for(tmp_path: Path, host: DiffusersHost) -> None:
    loaded = load_base(write_folder(tmp_path / "folder", host), torch.bfloat16)
    assert {p.dtype for model in (loaded.unet, loaded.vae) for p in model.parameters()} == {torch.bfloat16}


def test_vae_attention_names_of_the_published_folder_are_read(tmp_path: Path, host: DiffusersHost) -> None:
    folder = write_folder(tmp_path / "folder", host)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = safetensors.torch.load_file(file)
    for new_name, old_name in old.items():
        tensors = {
            key.replace(f".attentions.0.{new_name}.", f".attentions.0.{old_name}."): v for key, v in tensors.items()
        }
    assert any(".query." in key for key in tensors)
    safetensors.torch.save_file(tensors, file)
    assert same_weights(load_base(folder), host)


@pytest.mark.parametrize("scheduler", [None, {"prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}, {}])
def test_folder_tells_what_it_predicts(tmp_path: Path, host: DiffusersHost, scheduler: dict[str, str] | None) -> None:
    loaded = load_base(write_folder(tmp_path / "folder", host, scheduler))
    assert loaded.layout.prediction_type == (scheduler or {}).get("prediction_type", "epsilon")


def test_local_norms_are_built_where_the_folder_asks_for_them(tmp_path: Path, host: DiffusersHost) -> None:
    folder = write_folder(tmp_path / "folder", host)
    for part in ("unet", "vae"):
        file = folder / part / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "dfosd_norm": "affine"}))
    loaded = load_base(folder)
    assert not any(isinstance(m, torch.nn.GroupNorm) for model in (loaded.unet, loaded.vae) for m in model.modules())
    assert same_weights(loaded, host)


def test_default_is_read_from_its_place(tmp_path: Path, host: DiffusersHost) -> None:
    write_folder(tmp_path / "small_base", host)
    lora = random_lora(host)
    save_lora(tmp_path / "dfosd_small_x4.safetensors", lora)
    loaded, loaded_lora = load_default(weights=tmp_path)
    assert same_weights(loaded, host)
    assert loaded_lora == lora


# --- single files
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linear", [True, False])
def test_full_layout_is_read_from_the_shapes_and_named_as_diffusers_names_it(linear: bool) -> None:
    config = unet_config(context_dim=1024 if linear else 768, linear_projection=linear)
    unet, vae = build_unet(config), build_vae(vae_config())
    up = (False, True, True, True)
    ldm_unet = {ldm_unet_key(key, 2, up): value for key, value in unet.state_dict().items()}
    ldm_vae = {ldm_vae_key(key, 4): value for key, value in vae.state_dict().items()}
    tensors = {f"model.diffusion_model.{key}": value for key, value in ldm_unet.items()}
    tensors.update({f"first_stage_model.{key}": value for key, value in ldm_vae.items()})
    metadata = {"modelspec.prediction_type": "epsilon"}
    found = read_single_file(Path("sd.safetensors"), tensors, metadata)
    assert found.unet.config == config
    assert found.vae.config == vae_config()
    unet_weights, vae_weights = found.unet.weights(unet.state_dict()), found.vae.weights(vae.state_dict())
    converters = pytest.importorskip("diffusers.loaders.single_file_utils")
    theirs = converters.convert_ldm_unet_checkpoint(dict(tensors), dict(unet.config))
    assert {key: value.shape for key, value in theirs.items()} == {key: v.shape for key, v in unet_weights.items()}
    assert all(unet_weights[key] is value for key, value in theirs.items())
    vae_only = {key: value for key, value in tensors.items() if key.startswith("first_stage_model.")}
    their_vae = converters.convert_ldm_vae_checkpoint(vae_only, dict(vae.config))
    assert {key: value.shape for key, value in their_vae.items()} == {key: v.shape for key, v in vae_weights.items()}


def bias_with_std(std: float) -> Tensor:
    return torch.tensor([-std, std]).repeat(32)


@pytest.mark.parametrize(
    ("bias_std", "metadata", "yaml", "expected"),
    [
        (0.01, None, None, "epsilon"),
        (0.2, None, None, "v_prediction"),
        (0.2, {"modelspec.prediction_type": "epsilon"}, 'parameterization: "v"', "epsilon"),
        (0.01, {"modelspec.prediction_type": "v"}, None, "v_prediction"),
        (0.01, None, 'model:\n  params:\n    parameterization: "v"\n', "v_prediction"),
        (0.01, None, "model:\n  params:\n    parameterization: v  # not eps\n", "v_prediction"),
        (0.2, None, "model:\n  params:\n    linear_start: 0.00085\n", "epsilon"),
    ],
)
def test_single_file_tells_what_it_predicts(
    tmp_path: Path, bias_std: float, metadata: dict[str, str] | None, yaml: str | None, expected: str
) -> None:
    levels = (64, 64, 64, 64)
    up = (False, True, True, True)
    source = tiny_host(**unet_config(block_out_channels=levels, context_dim=24))
    tensors = {
        f"model.diffusion_model.{ldm_unet_key(key, 2, up)}": value for key, value in source.unet.state_dict().items()
    }
    tensors.update({key: value for key, value in ldm_tensors(source).items() if key.startswith("first_stage_model.")})
    assert f"model.diffusion_model.{V_BIAS}" in tensors
    tensors[f"model.diffusion_model.{V_BIAS}"] = bias_with_std(bias_std)
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors, file, metadata)
    if yaml is not None:
        file.with_suffix(".yaml").write_text(yaml)
    assert load_base(file).layout.prediction_type == expected


def test_sd1_is_never_taken_for_a_v_model(tmp_path: Path, sd1_host: DiffusersHost) -> None:
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file({**ldm_tensors(sd1_host), f"model.diffusion_model.{V_BIAS}": bias_with_std(0.2)}, file)
    assert load_base(file).layout.prediction_type == "epsilon"


# --- what is refused
# ---------------------------------------------------------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(BaseModelMismatchError, match=message) as error:
        load_base(path)
    assert "\n" not in str(error.value)


def test_missing_and_empty_places_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "none", r"There is no base model '.*none'\. Give a diffusers folder or a checkpoint file")
    refused(tmp_path, r"has no unet/config\.json\. Give a diffusers folder with `unet` and `vae`")


def test_folder_without_weights_or_with_a_broken_configuration_is_named(tmp_path: Path, host: DiffusersHost) -> None:
    folder = write_folder(tmp_path / "folder", host)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(tmp_path / "elsewhere")
    refused(folder, r"unet' has no weights\. Expected diffusion_pytorch_model\.safetensors")
    (folder / "vae" / "config.json").write_text("{")
    refused(folder, r"vae/config\.json' is not readable JSON .*Get the file again")


def test_folder_with_other_weights_than_its_configuration_is_named(tmp_path: Path, host: DiffusersHost) -> None:
    folder = write_folder(tmp_path / "folder", host)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    del tensors["quant_conv.weight"]
    safetensors.torch.save_file(tensors, file)
    refused(folder, r"1 of \d+ weights are missing or of another shape .* first quant_conv\.weight")


@pytest.mark.parametrize("change", [{"addition_embed_type": "text_time"}, {"class_embed_type": "projection"}])
def test_folder_of_a_model_that_wants_more_is_refused(tmp_path: Path, host: DiffusersHost, change: Any) -> None:
    folder = write_folder(tmp_path / "folder", host)
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    refused(folder, "'folder' is an SDXL, unCLIP or other model that wants more than a text embedding")


def test_folder_of_an_inpainting_model_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", tiny_host(in_channels=9))
    refused(folder, r"'folder' is an inpainting, .*UNet input 9, latent 4 channels.*Give SD 2\.1-base")


def test_folder_with_another_prediction_is_refused(tmp_path: Path, host: DiffusersHost) -> None:
    folder = write_folder(tmp_path / "folder", host, {"prediction_type": "sample"})
    refused(folder, "'folder' predicts 'sample', expected epsilon or v_prediction")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.diffusion_model.label_emb.0.0.weight": torch.zeros(1)}, "is an SDXL or unCLIP checkpoint"),
        (
            {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(64, 9, 3, 3)},
            r"UNet input 9, latent 4 channels",
        ),
        ({"model.diffusion_model.out.2.bias": None}, r"1 tensors are missing, first out\.2\.bias"),
        ({"model.diffusion_model.out.2.bias": torch.zeros(3)}, r"out\.2\.bias is \(3,\), expected \(4,\)"),
        ({"model.diffusion_model.middle_block.1.proj_in.weight": None}, "middle_block.1.proj_in.weight"),
    ],
)
def test_single_file_that_is_something_else_is_named(
    tmp_path: Path, host: DiffusersHost, change: dict[str, Tensor | None], message: str
) -> None:
    file = tmp_path / "model.safetensors"
    tensors = {**ldm_tensors(host), **change}
    safetensors.torch.save_file({key: value for key, value in tensors.items() if value is not None}, file)
    refused(file, message)


def test_single_file_without_a_vae_or_a_unet_is_named(tmp_path: Path, host: DiffusersHost) -> None:
    tensors, file = ldm_tensors(host), tmp_path / "model.safetensors"
    safetensors.torch.save_file({k: v for k, v in tensors.items() if k.startswith("model.")}, file)
    refused(
        file,
        "'model.safetensors' holds no VAE under Stable Diffusion's names. Give a full SD 2.1-base checkpoint",
    )
    safetensors.torch.save_file({k: v for k, v in tensors.items() if k.startswith("first")}, file)
    refused(file, "holds no UNet")


def test_lora_given_as_the_base_is_named(tmp_path: Path, host: DiffusersHost) -> None:
    save_lora(tmp_path / "lora.safetensors", random_lora(host))
    refused(tmp_path / "lora.safetensors", "'lora.safetensors' is a LoRA, not a base model")


def test_damaged_files_are_named(tmp_path: Path, host: DiffusersHost) -> None:
    good = tmp_path / "good.ckpt"
    torch.save(ldm_tensors(host), good)
    for name, content in (
        ("a.safetensors", b""),
        ("b.safetensors", b"PK no"),
        ("c.ckpt", b""),
        ("d.ckpt", b"text"),
        ("e.ckpt", good.read_bytes()[:5000]),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, rf"'{name}' is damaged or no model file")


class Sneaky:
    """Would run when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (warnings.warn, ("the pickle ran",))


def test_pickle_that_could_run_code_is_not_opened(tmp_path: Path) -> None:
    message = r"found _?warnings\.warn, which was not loaded or run"
    torch.save({"state_dict": {}, "sneaky": Sneaky()}, tmp_path / "zip.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps({"state_dict": Sneaky()}, protocol=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(tmp_path / "zip.ckpt", message)
        refused(tmp_path / "plain.ckpt", "could run code when opened|is damaged or no model file")
