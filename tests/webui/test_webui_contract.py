"""The tests' own small WebUIs against the real ones: names, arguments and attributes, read from their source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.fakes import networks, patching
from support.fakes import webui as fake
from support.fakes.contract import Contract, differences

LDM = "repositories/stable-diffusion-stability-ai/ldm"


def common(modules: Any) -> Contract:
    """What all of them keep of A1111."""
    devices, models = modules["modules.devices"], modules["modules.sd_models"]
    return {
        **{("modules/devices.py", name): devices[name] for name in ("autocast", "without_autocast", "torch_gc")},
        ("modules/devices.py", ""): ("device", "dtype_unet"),
        ("modules/sd_models.py", "apply_token_merging"): models["apply_token_merging"],
        ("modules/sd_models.py", ""): ("model_data", "checkpoints_list"),
        ("modules/sd_models.py", "SdModelData"): ("sd_model",),
        ("modules/sd_unet.py", ""): ("current_unet",),
        ("modules/shared.py", ""): ("state", "opts", "loaded_hypernetworks", "sd_upscalers", "sd_model"),
        ("modules/shared_state.py", "State"): (
            *("job", "job_timestamp", "job_no", "sampling_step", "sampling_steps", "textinfo"),
            *("interrupted", "skipped", "stopping_generation", "assign_current_image"),
        ),
        ("modules/scripts.py", ""): ("scripts_postproc",),
        ("modules/scripts_postprocessing.py", ""): ("ScriptPostprocessing",),
        ("modules/upscaler.py", ""): ("Upscaler", "UpscalerData"),
        ("modules/ui_components.py", ""): ("InputAccordion",),
        ("modules/paths.py", ""): ("models_path",),
    }


def a1111(modules: Any) -> Contract:
    diffusion, vae = f"{LDM}/models/diffusion/ddpm.py", f"{LDM}/models/autoencoder.py"
    unet = f"{LDM}/modules/diffusionmodules/openaimodel.py"
    return {
        (diffusion, "LatentDiffusion.decode_first_stage"): fake.LatentDiffusion.decode_first_stage,
        (diffusion, "LatentDiffusion.apply_model"): fake.LatentDiffusion.apply_model,
        (diffusion, "LatentDiffusion"): (
            *("cond_stage_model", "first_stage_model", "parameterization", "scale_factor", "model"),
        ),
        (diffusion, "DiffusionWrapper"): ("diffusion_model",),
        (vae, "AutoencoderKL.encode"): fake.FirstStage.encode,
        (vae, "AutoencoderKL.decode"): networks.LdmVae.decode,
        (vae, "AutoencoderKL"): ("encoder", "decoder", "quant_conv", "post_quant_conv"),
        (f"{LDM}/modules/distributions/distributions.py", "DiagonalGaussianDistribution.mode"): fake.Posterior.mode,
        (unet, "UNetModel"): ("in_channels", "out_channels", "model_channels", "channel_mult", "num_classes"),
        ("extensions-builtin/Lora/networks.py", ""): ("loaded_networks", "network_apply_weights"),
        ("modules/sd_models.py", "SdModelData"): ("sd_model", "lock"),
        ("modules/sd_models.py", "apply_token_merging"): modules["modules.sd_models"]["apply_token_merging"],
        ("modules/lowvram.py", ""): ("is_enabled",),
    }


def patchers(memory: str, patcher: str, vae: str, clip: str) -> Contract:
    return {
        (clip, "CLIP.clone"): fake.Clip.clone,
        (clip, "CLIP"): ("cond_stage_model", "patcher"),
        (memory, "load_models_gpu"): patching.load_models_gpu,
        (memory, "soft_empty_cache"): patching.soft_empty_cache,
        (memory, "free_memory"): patching.free_memory,
        (patcher, "ModelPatcher.__init__"): patching.ModelPatcher.__init__,
        (patcher, "ModelPatcher.clone"): patching.ModelPatcher.clone,
        (patcher, "ModelPatcher.memory_required"): patching.ModelPatcher.memory_required,
        (patcher, "ModelPatcher"): ("model", "load_device", "offload_device", "model_options"),
        (vae, "VAE.clone"): fake.ForgeVae.clone,
        (vae, "VAE"): (
            *("first_stage_model", "patcher", "device", "vae_dtype", "latent_channels", "downscale_ratio"),
            *("memory_used_encode", "memory_used_decode"),
        ),
    }


def forge(modules: Any) -> Contract:
    return {
        **patchers(
            "backend/memory_management.py",
            "backend/patcher/base.py",
            "backend/patcher/vae.py",
            "backend/patcher/clip.py",
        ),
        ("modules/sd_models.py", "forge_model_reload"): modules["modules.sd_models"]["forge_model_reload"],
        ("modules/sd_models.py", "SdModelData"): ("sd_model", "forge_loading_parameters"),
        ("backend/modules/k_model.py", "KModel"): ("diffusion_model", "predictor", "computation_dtype"),
        ("backend/modules/k_prediction.py", "AbstractPrediction"): ("prediction_type",),
        ("backend/diffusion_engine/base.py", "ForgeDiffusionEngine"): (
            *("forge_objects", "forge_objects_original", "first_stage_model", "is_sd1", "is_sd2"),
        ),
        ("backend/nn/vae.py", "IntegratedAutoencoderKL.encode"): fake.ForgeAutoencoder.encode,
        ("backend/nn/vae.py", "IntegratedAutoencoderKL.decode"): networks.LdmVae.decode,
        ("backend/nn/vae.py", "IntegratedAutoencoderKL.process_in"): fake.ForgeAutoencoder.process_in,
        ("backend/nn/vae.py", "IntegratedAutoencoderKL.process_out"): fake.ForgeAutoencoder.process_out,
        ("backend/nn/vae.py", "IntegratedAutoencoderKL"): ("encoder", "decoder", "quant_conv", "post_quant_conv"),
        ("backend/nn/unet.py", "IntegratedUNet2DConditionModel.forward"): networks.LdmUnet.forward,
        ("backend/nn/unet.py", "IntegratedUNet2DConditionModel"): (
            *("in_channels", "out_channels", "model_channels", "channel_mult", "num_classes"),
        ),
    }


def reforge(modules: Any) -> Contract:
    folder = "ldm_patched/modules"
    return {
        **patchers(f"{folder}/model_management.py", f"{folder}/model_patcher.py", f"{folder}/sd.py", f"{folder}/sd.py"),
        (f"{folder}/model_base.py", "BaseModel"): ("diffusion_model", "model_sampling", "manual_cast_dtype"),
        (f"{folder}/model_base.py", "BaseModel.get_dtype"): fake.ReforgeModel.get_dtype,
        (f"{folder}/model_base.py", "BaseModel.process_latent_in"): fake.ReforgeModel.process_latent_in,
        (f"{folder}/model_base.py", "BaseModel.process_latent_out"): fake.ReforgeModel.process_latent_out,
        (f"{folder}/model_sampling.py", ""): ("EPS", "V_PREDICTION"),
        ("ldm_patched/ldm/modules/diffusionmodules/openaimodel.py", "UNetModel.forward"): networks.LdmUnet.forward,
        ("ldm_patched/ldm/modules/diffusionmodules/openaimodel.py", "UNetModel"): (
            *("in_channels", "out_channels", "model_channels", "channel_mult", "num_classes"),
        ),
        ("modules_forge/forge_loader.py", ""): ("forge_objects", "forge_objects_original"),
    }


CONTRACTS = {"A1111_PATH": a1111, "FORGE_PATH": forge, "REFORGE_PATH": reforge}


@pytest.mark.parametrize("variable", CONTRACTS)
def test_fake_offers_what_the_webui_does(variable: str, tmp_path: Path) -> None:
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} does not name an installed WebUI.")
    modules = fake.WebUI(variable.removesuffix("_PATH").lower(), tmp_path).modules()
    modules["modules.shared"] = vars(modules["modules.shared"])
    assert differences(Path(path), common(modules) | CONTRACTS[variable](modules)) == []
