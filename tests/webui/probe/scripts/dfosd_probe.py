"""A second extension for the tests: routes that look into the host, and do there what no user's click can measure."""

import base64
import gc
import hashlib
import io
import time
from typing import Any

import numpy as np
import torch
from dfosd_probe_host import add_routes, hooks, part, weights
from fastapi import Body
from modules import devices, sd_models, shared


def upscale(
    shape: list[int] = Body(..., embed=True),  # noqa: B008
    choice: dict[str, Any] = Body(..., embed=True),  # noqa: B008
    settings: dict[str, Any] = Body(..., embed=True),  # noqa: B008
) -> dict[str, Any]:
    """The pipeline's floats, unrounded, for the image of `picture(shape)`."""
    models = part("nodes.webui.models")
    pipeline = part("dfosd_core.pipeline")
    chosen = pipeline.UpscaleSettings(**settings)
    before = weights()
    image = torch.rand(tuple(shape), generator=torch.Generator().manual_seed(5))
    started = time.perf_counter()
    attached = part("nodes.webui.run").attached_model
    with models.chosen_model(models.Choice(**choice)) as found, attached(found, chosen) as model:
        output = pipeline.upscale_attached(image, model.host, model.lora, chosen)
        kind = type(found.host).__name__
        network = getattr(found.host, "unet", None)
        dtype = str(next(network.parameters()).dtype) if network is not None else ""
    seconds = time.perf_counter() - started
    file = io.BytesIO()
    np.save(file, output.numpy())
    return {
        "npy": base64.b64encode(file.getvalue()).decode(),
        "host": kind,
        "dtype": dtype,
        "base": model.base_name,
        "seconds": seconds,
        "weights_unchanged": weights() == before,
        "hooks_left": hooks(),
    }


def hook_cost(lora: str = Body(..., embed=True), latents: int = Body(..., embed=True)) -> dict[str, float]:
    """Seconds of a UNet call with the LoRA in hooks, and without one, which is what merged weights cost."""
    models = part("nodes.webui.models")
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


def prompts(lora: str = Body(..., embed=True)) -> dict[str, Any]:
    """The empty prompt that the LoRA runs with, the WebUI's own way to it, and how far they are apart."""
    models = part("nodes.webui.models")
    models.forget_models()
    before = text_weights()
    with models.chosen_model(models.Choice(lora=lora)) as model:
        ours = model.lora.prompt_embeds.float().cpu()
    after = text_weights()
    sd_model = sd_models.model_data.sd_model
    with torch.no_grad(), devices.autocast():
        theirs = sd_model.get_learned_conditioning([""])
    theirs = (theirs["crossattn"] if isinstance(theirs, dict) else theirs).float().cpu()
    difference = float((ours - theirs.reshape(ours.shape)).abs().max())
    return {"difference": difference, "size": float(theirs.std()), "weights_unchanged": before == after}


def text_weights() -> str:
    """A hash over the text encoder's weights."""
    model = sd_models.model_data.sd_model
    objects = getattr(model, "forge_objects", None)
    encoder = objects.clip.cond_stage_model if objects is not None else model.cond_stage_model
    digest = hashlib.sha256()
    for value in encoder.state_dict().values():
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def state() -> dict[str, Any]:
    """What the host has chosen and loaded, and what DFOSD keeps beside it."""
    model = sd_models.model_data.sd_model
    info = getattr(model, "sd_checkpoint_info", None)
    wanted = getattr(sd_models.model_data, "forge_loading_parameters", {}).get("checkpoint_info")
    gc.collect()
    kind = part("dfosd_core.hosts.own").OwnHost
    return {
        "checkpoint": getattr(info, "name_for_extra", None),
        "chosen": getattr(wanted, "name", None) or shared.opts.data.get("sd_model_checkpoint"),
        "model": id(model),
        "checkpoints": [found.name for found in sd_models.checkpoints_list.values()],
        "upscalers": [data.name for data in shared.sd_upscalers],
        "kept": list(part("nodes.webui.models")._kept),
        "own_hosts": sum(type(thing) is kind for thing in gc.get_objects()),
    }


def lists() -> dict[str, Any]:
    """What the drop-downs offer."""
    files = part("nodes.webui.files")
    return {"loras": files.lora_names(), "bases": files.base_names()}


def options(names: list[str] = Body(..., embed=True)) -> dict[str, Any]:  # noqa: B008
    """reForge's own route for them leaves out those of extensions."""
    return {name: getattr(shared.opts, name) for name in names}


def number_format(name: str = Body(..., embed=True)) -> dict[str, Any]:
    """Networks of DFOSD's own are loaded in torch's dtype `name` from now on; "" is what is fast here."""
    models = part("nodes.webui.models")
    models.forget_models()
    models.fast_dtype = (lambda _: getattr(torch, name)) if name else part("dfosd_core.hosts.own").fast_dtype
    return {}


def reload_ui() -> dict[str, Any]:
    shared.state.request_restart()
    return {}


add_routes(upscale, hook_cost, prompts, number_format, reload_ui, state, lists, options)
