"""What the probe's scripts share: ways into DFOSD and into the host, and the routes' place."""

import hashlib
import importlib
from collections.abc import Callable
from typing import Any

from modules import script_callbacks, sd_models


def part(name: str) -> Any:
    """A module of DFOSD's, as the host runs it."""
    return importlib.import_module(f"dfosd_webui_extension.{name}")


def networks() -> list[Any]:
    """The UNet and the VAE of the host's checkpoint, if one is loaded that has them."""
    model = sd_models.model_data.sd_model
    objects = getattr(model, "forge_objects_original", None)
    if objects is not None:
        return [objects.unet.model.diffusion_model, objects.vae.first_stage_model]
    if not hasattr(model, "model"):
        return []  # Forge Neo has something else in place of a checkpoint
    return [model.model.diffusion_model, model.first_stage_model] if hasattr(model, "first_stage_model") else []


def weights() -> str:
    """A hash over some weights of each network of the host's, read where they lie."""
    digest = hashlib.sha256()
    for network in networks():
        for parameter in list(network.parameters())[::7]:
            digest.update(parameter.detach().cpu().reshape(-1)[::11].float().numpy().tobytes())
    return digest.hexdigest()


def hooks() -> int:
    """Forward hooks on these networks."""
    return sum(len(module._forward_hooks) for network in networks() for module in network.modules())


def add_routes(*functions: Callable[..., Any]) -> None:
    """Each function becomes `POST /dfosd-probe/ITS_NAME`."""

    def add(demo: Any, app: Any) -> None:
        for function in functions:
            app.add_api_route(f"/dfosd-probe/{function.__name__}", function, methods=["POST"])

    script_callbacks.on_app_started(add)
