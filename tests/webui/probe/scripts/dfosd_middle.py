"""Routes that watch a run, and put things of a user's on the checkpoint which no request can bring along."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dfosd_probe_host import add_routes, networks, part
from fastapi import Body
from modules import script_callbacks, shared

_ticks: list[dict[str, Any]] = []
_runs: list[tuple[Any, ...]] = []
_sums: dict[str, tuple[float, float]] = {}
_said: list[str] = []
LABEL = "dfosd-probe"


def watch() -> dict[str, Any]:
    """Notes each finished tile, and what the upscaler is given and gives. Answers with what was noted so far."""
    run, upscaler = part("dfosd_core.pipeline"), part("nodes.webui.upscaler")
    if not hasattr(run, "probe_watches"):
        run.probe_watches = True
        run.upscale_attached = _noting_tiles(run.upscale_attached)
        upscaler.upscale_image = _noting_runs(upscaler.upscale_image)
    noted = {"ticks": list(_ticks), "runs": len(_runs)}
    _ticks.clear()
    _runs.clear()
    return noted


def _noting_tiles(original: Any) -> Any:
    def noting(image: Any, host: Any, lora: Any, settings: Any, progress: Any = None) -> Any:
        def tick(now: Any) -> None:
            stop = shared.state.interrupted or shared.state.skipped
            _ticks.append({"done": now.done, "total": now.total, "stop": bool(stop)})
            if progress is not None:
                progress(now)

        return original(image, host, lora, settings, tick)

    return noting


def _noting_runs(original: Any) -> Any:
    def noting(image: Any, settings: Any, choice: Any) -> Any:
        result = original(image, settings, choice)
        _runs.append((image.copy(), settings, choice, result[0].copy(), result[1]))
        return result

    return noting


def again() -> dict[str, Any]:
    """The last run of the upscaler once more, now by itself: how far it is from what came of it then."""
    image, settings, choice, before, info = _runs[-1]
    pil = part("dfosd_core.image_files.pil")
    attached = part("nodes.webui.run").attached_model
    with part("nodes.webui.models").chosen_model(choice) as found, attached(found, settings) as model:
        kind = type(found.host).__name__
        now = pil.to_pil(part("nodes.webui.run").upscale_with(model, pil.from_pil(image), settings))
    difference = np.abs(np.asarray(now, dtype=np.int16) - np.asarray(before, dtype=np.int16))
    return {"difference": int(difference.max()), "host": kind, "info": info, "size": before.size}


def hypernetwork(name: str = Body(..., embed=True), keep: bool = Body(..., embed=True)) -> dict[str, Any]:
    """Write a random one of that name for the checkpoint, or remove it."""
    from modules.hypernetworks.hypernetwork import Hypernetwork

    path = Path(shared.cmd_opts.hypernetwork_dir) / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    if keep:
        torch.manual_seed(1)
        widths = {module.in_features for part, module in networks()[0].named_modules() if part.endswith("to_k")}
        random = Hypernetwork(name=name, enable_sizes=sorted(widths), layer_structure=[1, 2, 1], weight_init="Normal")
        for weight in random.weights():
            weight.data = torch.randn_like(weight) * 0.05
        save, torch.save = torch.save, partial(torch.save, _use_new_zipfile_serialization=False)
        try:
            random.save(str(path))  # A1111 1.10 does not read what a new torch writes otherwise
        finally:
            torch.save = save
    else:
        path.unlink(missing_ok=True)
    shared.reload_hypernetworks()
    return {"known": name in shared.hypernetworks}


def unet_changes() -> dict[str, Any]:
    """How many of the UNet's weights and biases are other than at the last call; what `logging.debug` was told since.

    A1111's loader of LoRAs says there only which keys it could not use.
    """
    if not _sums:
        logging.debug = _listening(logging.debug)
    now = {}
    for name, value in networks()[0].named_parameters():
        exact = value.detach().double()
        now[name] = float(exact.sum()), float(exact.abs().sum())
    answer = {"changed": sum(_sums.get(name) != value for name, value in now.items()), "said": list(_said)}
    _sums.update(now)
    _said.clear()
    return answer


def _listening(original: Any) -> Any:
    def debug(message: object, *args: Any, **more: Any) -> None:
        _said.append(str(message))
        original(message, *args, **more)

    return debug


def add_unet(found: list[Any]) -> None:
    """A UNet to choose in the place of the checkpoint's, as TensorRT's is."""
    from modules import sd_unet

    if not hasattr(sd_unet, "SdUnet"):
        return  # Forge Neo

    class Other(sd_unet.SdUnet):
        def forward(self, x: Any, timesteps: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
            return 0.3 * x

    class Option(sd_unet.SdUnetOption):
        model_name = label = LABEL

        def create_unet(self) -> Any:
            return Other()

    found.append(Option())


if hasattr(script_callbacks, "on_list_unets"):  # SD.Next has none
    script_callbacks.on_list_unets(add_unet)
add_routes(watch, again, hypernetwork, unet_changes)
