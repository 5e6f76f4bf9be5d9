"""ComfyUI's nodes: DFOSD Upscale, DFOSD Load LoRA, DFOSD Color Fix. Ids, inputs and their order are frozen."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import comfy.utils  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ..dfosd_core.color_fix import fix_color
from ..dfosd_core.errors import BaseModelMismatchError, ConfigError, DfosdError, ImageFileError
from ..dfosd_core.hosts.comfy import ComfyHost
from ..dfosd_core.hosts.comfy_base import unet_layout
from ..dfosd_core.hosts.comfy_clones import LoraClones, with_unet_lora
from ..dfosd_core.images import resize, to_bchw, to_bhwc
from ..dfosd_core.lora import DfosdLora, check_base
from ..dfosd_core.pipeline import Progress, upscale
from ..dfosd_core.settings import COLOR_FIX_NAMES, UpscaleSettings
from .comfy_before_after import save_before_after
from .comfy_embedded import EMBEDDED, EmbeddedModel, load_embedded
from .comfy_files import LoraFile, lora_fingerprint, lora_names, register_folder
from .comfy_inputs import Inputs, settings_from, settings_inputs
from .comfy_preview import PREVIEW_PX, Mosaic

CATEGORY = "image/upscaling"
STRENGTH = settings_inputs()["strength"]

register_folder()


class LoraSettings(NamedTuple):
    """DFOSD_LORA: what DFOSD Upscale must know of a LoRA that the MODEL carries already."""

    lora: DfosdLora
    strength: float


class DFOSDUpscale:
    """Upscale with the embedded small model, or with a DFOSD LoRA on the connected MODEL and VAE."""

    CATEGORY = CATEGORY
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The upscaled images, with alpha where the input has it.",)
    DESCRIPTION = "One-step diffusion super-resolution. Works at once with the embedded small model; with a base \
model's MODEL and VAE and a DFOSD LoRA for it, at full quality."

    def __init__(self) -> None:
        self._file = LoraFile()
        self._clones = LoraClones()
        self._embedded: EmbeddedModel | None = None

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Inputs]:  # noqa: N802 - the host's name
        """The host asks at each page load; the list of files is read anew."""
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "Images to upscale, RGB or RGBA; each one by itself."}),
                "lora": (
                    [EMBEDDED, *lora_names()],
                    {
                        "default": EMBEDDED,
                        "tooltip": "The embedded small model, or a DFOSD LoRA from models/dfosd or models/loras.",
                    },
                ),
                **settings_inputs(),
            },
            "optional": {
                "model": ("MODEL", {"tooltip": "The base the LoRA was trained on. The embedded model needs none."}),
                "vae": ("VAE", {"tooltip": "The base's VAE. The embedded model needs none."}),
                "conditioning": (
                    "CONDITIONING",
                    {"tooltip": "One text embedding to use instead of the prompt the LoRA was trained with."},
                ),
                "lora_settings": (
                    "DFOSD_LORA",
                    {"tooltip": "From DFOSD Load LoRA, with its MODEL: `lora` and `strength` above are not used then."},
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},  # pyright: ignore[reportReturnType]
        }

    @classmethod
    def IS_CHANGED(cls, lora: str | None = None, **_: Any) -> str:  # noqa: N802
        """Another file under the same name is another LoRA. None: the name comes over a link."""
        try:
            return "" if lora in (None, EMBEDDED) else lora_fingerprint(lora)
        except DfosdError:
            return ""  # the run itself says so

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802
        cls,
        long_edge: int,
        short_edge: int,
        unet_tile: int,
        unet_overlap: int,
        vae_tile: int,
        vae_overlap: int,
    ) -> bool | str:
        """What no widget's limits say: settings that contradict each other."""
        try:
            settings_from(dict(locals()))
        except ConfigError as error:
            return str(error)
        return True

    def run(
        self,
        image: Tensor,
        lora: str,
        model: Any = None,
        vae: Any = None,
        conditioning: Any = None,
        lora_settings: LoraSettings | None = None,
        unique_id: str | None = None,
        **values: Any,
    ) -> dict[str, Any]:
        """Upscale; `values` are the widgets that `settings_inputs` made."""
        settings = settings_from(values)
        if lora_settings is not None:
            settings = dataclasses.replace(settings, strength=lora_settings.strength)
            host, chosen = self._connected(model, vae, lora_settings.lora, has_lora=True)
        elif lora == EMBEDDED:
            self._embedded = load_embedded()
            host, chosen = self._embedded.host, self._embedded.lora
        else:
            host, chosen = self._connected(model, vae, self._file.read(lora), has_lora=False)
        if conditioning is not None:
            chosen = dataclasses.replace(chosen, prompt_embeds=prompt_of(conditioning, chosen))
        output = upscale(image, host, chosen, settings, progress_bar(image, settings, unique_id))
        return {"ui": {"dfosd_before_after": save_before_after(image, output)}, "result": (output,)}

    def _connected(self, model: Any, vae: Any, lora: DfosdLora, has_lora: bool) -> tuple[ComfyHost, DfosdLora]:
        if model is None or vae is None:
            missing = " and ".join(name for name, value in (("model", model), ("vae", vae)) if value is None)
            raise BaseModelMismatchError(
                f"This LoRA needs a base model: connect {missing} of {lora.metadata.base_model or 'its base'}, or "
                f"choose '{EMBEDDED}'."
            )
        return ComfyHost(model, vae, self._clones, has_lora), lora


class DFOSDLoadLoRA:
    """Put a DFOSD LoRA on a MODEL; the host keeps the result, and hands it to as many nodes as want it."""

    CATEGORY = CATEGORY
    FUNCTION = "run"
    RETURN_TYPES = ("MODEL", "CONDITIONING", "INT", "DFOSD_LORA")
    RETURN_NAMES = ("model", "conditioning", "timestep", "lora_settings")
    OUTPUT_TOOLTIPS = (
        "The MODEL with the LoRA's UNet layers on it.",
        "The prompt embedding that the LoRA was trained with.",
        "The timestep at which the LoRA's UNet is called.",
        "For DFOSD Upscale: everything else the file says.",
    )
    DESCRIPTION = "Apply a DFOSD LoRA to a MODEL, for DFOSD Upscale's lora_settings or a graph of your own."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Inputs]:  # noqa: N802
        """The host asks at each page load; the list of files is read anew."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The base the LoRA was trained on."}),
                "lora": (lora_names(), {"tooltip": "A DFOSD LoRA from models/dfosd or models/loras."}),
                "strength": STRENGTH,
            }
        }

    IS_CHANGED = DFOSDUpscale.IS_CHANGED

    def run(self, model: Any, lora: str, strength: float) -> tuple[Any, Any, int, LoraSettings]:
        """Raises BaseModelMismatchError or LoraMismatchError when the LoRA does not fit the MODEL."""
        chosen = LoraFile().read(lora)
        wanted = chosen.metadata.base_layout
        check_base(wanted, unet_layout(model, wanted), f"'{lora}'")
        patched = with_unet_lora(model, chosen, strength)
        return patched, [[chosen.prompt_embeds, {}]], chosen.metadata.timestep, LoraSettings(chosen, strength)


class DFOSDColorFix:
    """Give images the colours of others: the fix that DFOSD Upscale ends with, for any upscaler."""

    CATEGORY = CATEGORY
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The images in the reference's colours, with their own alpha.",)
    DESCRIPTION = "Transfer the colours of a reference, over the whole image at once."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Inputs]:  # noqa: N802
        """Method names as in DFOSD Upscale, without `none`."""
        methods = [name for name in COLOR_FIX_NAMES if name != "none"]
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "Images whose colours are to change."}),
                "reference": ("IMAGE", {"tooltip": "One image for all, or one for each; resized as needed."}),
                "method": (methods, {"tooltip": settings_inputs()["color_fix"][1]["tooltip"]}),
            }
        }

    def run(self, image: Tensor, reference: Tensor, method: str) -> tuple[Tensor]:
        """Raises ImageFileError when the numbers of images do not match."""
        if reference.shape[0] not in (1, image.shape[0]):
            raise ImageFileError(
                f"Expected one reference image or {image.shape[0]}, one for each image, found {reference.shape[0]}."
            )
        output = image.clone()
        for i in range(image.shape[0]):
            x = to_bchw(image[i : i + 1, ..., :3].float())
            like = to_bchw(reference[i % reference.shape[0]][None, ..., :3].float().to(x.device))
            like = resize(like, (x.shape[-2], x.shape[-1])).clamp(0.0, 1.0)
            output[i : i + 1, ..., :3] = to_bhwc(fix_color(method, x, like)).clamp(0.0, 1.0)
        return (output,)


def prompt_of(conditioning: Any, lora: DfosdLora) -> Tensor:
    """A CONDITIONING's embedding, (1, N, C). Raises ConfigError for several, BaseModelMismatchError for another C."""
    if len(conditioning) != 1:
        raise ConfigError(f"Expected a conditioning of one text embedding, found {len(conditioning)}. Connect one.")
    embedding: Tensor = conditioning[0][0][:1]
    width = lora.prompt_embeds.shape[-1]
    if embedding.ndim != 3 or embedding.shape[-1] != width:
        raise BaseModelMismatchError(
            f"Expected a conditioning of width {width}, the LoRA's, found {tuple(embedding.shape)}. "
            "Encode the text with the base's own CLIP, or leave conditioning unconnected."
        )
    return embedding


def progress_bar(image: Tensor, settings: UpscaleSettings, unique_id: str | None) -> Any:
    """A progress callback that moves the node's bar and shows the tiles. It raises when the user presses stop."""
    mosaic: Mosaic | None = None
    bar: Any = None

    def show(progress: Progress) -> None:
        nonlocal mosaic, bar
        if mosaic is None:
            mosaic = Mosaic(image, settings.output_size(image.shape[1], image.shape[2]))
            bar = comfy.utils.ProgressBar(progress.total, node_id=unique_id)
        tile = progress.tile
        assert tile is not None
        picture = mosaic.paste(tile) if progress.phase == "decode" else mosaic.start(tile.image)
        bar.update_absolute(progress.done, progress.total, ("JPEG", picture, PREVIEW_PX))

    return show


NODE_CLASS_MAPPINGS = {
    "DFOSDUpscale": DFOSDUpscale,
    "DFOSDLoadLoRA": DFOSDLoadLoRA,
    "DFOSDColorFix": DFOSDColorFix,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DFOSDUpscale": "DFOSD Upscale",
    "DFOSDLoadLoRA": "DFOSD Load LoRA",
    "DFOSDColorFix": "DFOSD Color Fix",
}
