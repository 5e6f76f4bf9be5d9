"""Routes that let the host's own networks fail: out of memory, half precision that overflows."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from dfosd_probe_host import add_routes, hooks, networks, weights
from fastapi import Body
from modules import sd_models

_undo: list[Callable[[], Any]] = []


@torch.inference_mode()
def fault(kind: str = Body(..., embed=True), limit: int = Body(0, embed=True)) -> dict[str, Any]:
    """From now on a network fails, until `kind` is "none".

    "memory": above `limit` latents along an edge. "overflow": the VAE is in bfloat16, and its decoder gives
    infinities in anything but float32. "nan": the decoder gives them always.
    """
    while _undo:
        _undo.pop()()
    if kind == "none":
        return {}
    unet, vae = networks()
    if kind == "memory":
        for module, size in ((unet, limit), (vae.encoder, 8 * limit), (vae.decoder, limit)):
            _undo.append(module.register_forward_pre_hook(_out_of_memory_above(size)).remove)
    elif kind == "overflow":
        _halve(vae)
        _undo.append(vae.decoder.conv_in.register_forward_hook(_infinite_in_half).remove)
    else:
        _undo.append(vae.decoder.conv_in.register_forward_hook(_infinite).remove)
    return {}


def _out_of_memory_above(size: int) -> Callable[[Any, Any], None]:
    def hook(module: Any, given: Any) -> None:
        if max(given[0].shape[-2:]) > size:
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory, says the test of more than {size}.")

    return hook


def _infinite_in_half(module: Any, given: Any, output: torch.Tensor) -> torch.Tensor:
    return output if output.dtype == torch.float32 else output * torch.inf


def _infinite(module: Any, given: Any, output: torch.Tensor) -> torch.Tensor:
    return output * torch.inf


def _halve(vae: Any) -> None:
    before = {name: parameter.data for name, parameter in vae.named_parameters()}
    holder = getattr(getattr(sd_models.model_data.sd_model, "forge_objects_original", None), "vae", None)

    @torch.inference_mode()
    def put_back() -> None:
        vae.to(torch.float32)  # A1111's remembers the format that it was last told
        for name, parameter in vae.named_parameters():
            parameter.data = before[name]
        if holder is not None:
            holder.vae_dtype = torch.float32

    assert next(vae.parameters()).dtype == torch.float32
    _undo.append(put_back)
    vae.to(torch.bfloat16)
    if holder is not None:
        holder.vae_dtype = torch.bfloat16


def look() -> dict[str, Any]:
    """Whether anything of the checkpoint is other than it was: all of the VAE, some of the UNet, hooks."""
    digest = hashlib.sha256()
    for parameter in networks()[1].parameters():
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    dtypes = {str(parameter.dtype) for parameter in networks()[1].parameters()}
    return {"vae": digest.hexdigest(), "dtypes": sorted(dtypes), "weights": weights(), "hooks": hooks()}


add_routes(fault, look)
