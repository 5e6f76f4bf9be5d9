"""A second extension for the tests: routes that look into the host, and do there what no user's click can measure."""

import base64
import hashlib
import importlib
import io
import time
from typing import Any

import numpy as np
import torch
from fastapi import Body
from modules import script_callbacks, sd_models, shared


def part(name: str) -> Any:
    return importlib.import_module(f"dfosd_webui_extension.nodes.{name}")


def upscale(
    shape: list = Body(..., embed=True),  # noqa: B008
    choice: dict = Body(..., embed=True),  # noqa: B008
    settings: dict = Body(..., embed=True),  # noqa: B008
) -> dict[str, Any]:
    """The pipeline's floats, unrounded, for the image of `picture(shape)`."""
    models = part("webui_models")
    pipeline = importlib.import_module("dfosd_webui_extension.dfosd_core.pipeline")
    chosen = pipeline.UpscaleSettings(**settings)
    before = weights()
    image = torch.rand(tuple(shape), generator=torch.Generator().manual_seed(5))
    started = time.perf_counter()
    with models.chosen_model(models.Choice(**choice)) as model, model.host.lora(model.lora, chosen.strength):
        output = pipeline.upscale_attached(image, model.host, model.lora, chosen)
        kind = type(model.host).__name__
    seconds = time.perf_counter() - started
    file = io.BytesIO()
    np.save(file, output.numpy())
    return {
        "npy": base64.b64encode(file.getvalue()).decode(),
        "host": kind,
        "base": model.base_name,
        "seconds": seconds,
        "weights_unchanged": weights() == before,
        "hooks_left": hooks(),
    }


def hook_cost(lora: str = Body(..., embed=True), latents: int = Body(..., embed=True)) -> dict[str, float]:
    """Seconds of a UNet call with the LoRA in hooks, and without one, which is what merged weights cost."""
    models = part("webui_models")
    seconds = {"hooks": [], "plain": []}
    with models.chosen_model(models.Choice(lora=lora)) as model:
        z = torch.rand(1, 4, latents, latents)

        def call() -> float:
            started = time.perf_counter()
            model.host.predict_eps(z, 199, model.lora.prompt_embeds)
            return time.perf_counter() - started

        for kind, strength in (("plain", 0.0), ("hooks", 1.0)) * 3:
            with model.host.lora(model.lora, strength):
                call()
                seconds[kind].append(call())
    return {kind: min(times) for kind, times in seconds.items()}


def networks() -> list[Any]:
    model = sd_models.model_data.sd_model
    objects = getattr(model, "forge_objects_original", None)
    if objects is not None:
        return [objects.unet.model.diffusion_model, objects.vae.first_stage_model]
    return [model.model.diffusion_model, model.first_stage_model] if hasattr(model, "first_stage_model") else []


def weights() -> str:
    """A hash over some weights of each network of the host's, read where they lie."""
    digest = hashlib.sha256()
    for network in networks():
        for parameter in list(network.parameters())[::7]:
            digest.update(parameter.detach().cpu().reshape(-1)[::11].float().numpy().tobytes())
    return digest.hexdigest()


def hooks() -> int:
    return sum(len(module._forward_hooks) for network in networks() for module in network.modules())


def state() -> dict[str, Any]:
    info = getattr(sd_models.model_data.sd_model, "sd_checkpoint_info", None)
    return {
        "checkpoint": getattr(info, "name_for_extra", None),
        "upscalers": [data.name for data in shared.sd_upscalers],
        "kept": list(part("webui_models")._kept),
    }


def reload_ui() -> dict[str, Any]:
    shared.state.request_restart()
    return {}


def add(demo: Any, app: Any) -> None:
    for name, function in (("upscale", upscale), ("hook_cost", hook_cost), ("reload_ui", reload_ui), ("state", state)):
        app.add_api_route(f"/dfosd-probe/{name}", function, methods=["POST"])


script_callbacks.on_app_started(add)
