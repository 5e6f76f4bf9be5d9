"""DFOSD Upscale for ComfyUI."""

from __future__ import annotations

import dataclasses
from typing import Any

import comfy.utils  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ...dfosd_core.errors import BaseModelMismatchError, ConfigError, NumericError
from ...dfosd_core.host import Host
from ...dfosd_core.hosts.comfy.clones import LoraClones
from ...dfosd_core.hosts.comfy.host import ComfyHost, LoadedLoraHost
from ...dfosd_core.images import is_finite
from ...dfosd_core.lora.file import DfosdLora
from ...dfosd_core.lora.metadata import describe_origin
from ...dfosd_core.mosaic import PREVIEW_PX, Mosaic
from ...dfosd_core.pipeline import Progress, upscale
from ...dfosd_core.settings import FULL_DECODER, UpscaleSettings
from ...dfosd_core.sizes import Placement
from .before_after import save_before_after
from .decoder_files import DECODER_HELP, DecoderFile, decoder_fingerprint, decoder_names
from .embedded import EMBEDDED, EmbeddedModel, load_embedded
from .errors import with_short_errors
from .inputs import SIZES, Inputs, settings_from, settings_inputs
from .load_lora import LoraSettings
from .lora_files import LORA_HELP, LoraFile, lora_fingerprint, lora_names
from .mask import check_mask, kept_outside
from .prompt import CONDITIONING_HELP, with_prompt
from .upstream import upstream


class DFOSDUpscale:
    """Upscale with the embedded small model, or with a LoRA on the connected MODEL and VAE."""

    CATEGORY = "image/upscaling"
    SEARCH_ALIASES = ("super resolution", "enlarge", "enhance", "restore", "sharpen", "one step", "SD 2.1", "OSEDiff")
    FUNCTION = "run"
    OUTPUT_NODE = True  # it shows what it made, so it may end a graph
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The upscaled images, with alpha where the input has it.",)
    DESCRIPTION = "One-step diffusion super-resolution. Works at once with the embedded small model; with a base \
model's MODEL and VAE and a DFOSD or imported LoRA for it, at full quality."

    def __init__(self) -> None:
        self._file = LoraFile()
        self._decoder = DecoderFile()
        self._clones = LoraClones()
        self._embedded: EmbeddedModel | None = None
        self._loaded_from: str | None = None
        """Where MODEL and VAE came from in the last run."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Inputs]:  # noqa: N802 - the host's name
        """The host asks at each page load; the list of files is read anew."""
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "Images to upscale, RGB or RGBA, processed one by one."}),
                "lora": (
                    [EMBEDDED, *lora_names()],
                    {"default": EMBEDDED, "tooltip": f"The embedded small model, or a {LORA_HELP}"},
                ),
                **settings_inputs(),
            },
            "optional": {
                "model": (
                    "MODEL",
                    {"lazy": True, "tooltip": "The base the LoRA was trained on. The embedded model needs none."},
                ),
                "vae": ("VAE", {"lazy": True, "tooltip": "The base's VAE. The embedded model needs none."}),
                "conditioning": ("CONDITIONING", {"lazy": True, "tooltip": CONDITIONING_HELP}),
                "lora_settings": (
                    "DFOSD_LORA",
                    {"tooltip": "From DFOSD Load LoRA, with its MODEL: `lora` and `strength` above are then ignored."},
                ),
                **settings_inputs("pixel_strength"),
                "decoder": (decoder_names(), {"default": FULL_DECODER, "tooltip": DECODER_HELP}),
                "mask": (
                    "MASK",
                    {"tooltip": "Where the result is wanted. Outside it the image is enlarged bicubically."},
                ),
                **settings_inputs(*SIZES),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "dynprompt": "DYNPROMPT"},  # pyright: ignore[reportReturnType]
        }

    @classmethod
    def IS_CHANGED(cls, lora: str | None = None, decoder: str | None = None, **_: Any) -> str:  # noqa: N802
        """Another file under the same name is another LoRA, or decoder."""
        return ("" if lora == EMBEDDED else lora_fingerprint(lora)) + decoder_fingerprint(decoder)

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802
        cls,
        long_edge: int | None = None,
        short_edge: int | None = None,
        megapixels: float | None = None,
        width: int | None = None,
        height: int | None = None,
        unet_tile: int | None = None,
        unet_overlap: int | None = None,
        vae_tile: int | None = None,
        vae_overlap: int | None = None,
    ) -> bool | str:
        """What no widget's limits say: settings that contradict each other. None: linked, or not in the request."""
        try:
            settings_from({name: value for name, value in locals().items() if name != "cls"})
        except ConfigError as error:
            return str(error)
        return True

    def check_lazy_status(
        self,
        lora: str,
        lora_settings: LoraSettings | None = None,
        unique_id: str | None = None,
        dynprompt: Any = None,
        **inputs: Any,
    ) -> list[str]:
        """Names of inputs to load: none for the embedded model, even when they are connected.

        The last run's base is let go of if another one is on its way: this is the host's only call before it loads
        that, and in `run` both would be in memory. An input that is None may be in the host's cache all the same.
        """
        if _is_embedded(lora, lora_settings):
            self._clones.clear()
            return []
        source = None if dynprompt is None else upstream(dynprompt, unique_id or "", ("model", "vae"))
        if source is None or source != self._loaded_from:
            self._clones.clear()
        self._loaded_from = source
        return [name for name in ("model", "vae", "conditioning") if name in inputs and inputs[name] is None]

    @with_short_errors
    def run(
        self,
        image: Tensor,
        lora: str,
        model: Any = None,
        vae: Any = None,
        conditioning: Any = None,
        lora_settings: LoraSettings | None = None,
        unique_id: str | None = None,
        decoder: str = FULL_DECODER,
        mask: Tensor | None = None,
        **values: Any,
    ) -> dict[str, Any]:
        """Upscale; `values` are the widgets that `settings_inputs` made."""
        settings = settings_from(values)
        if mask is not None:
            check_mask(mask, len(image))
        if lora_settings is not None:
            settings = _as_loaded(settings, lora_settings)
        placement = settings.placement(image.shape[1], image.shape[2])
        host, chosen = self._source(lora, model, vae, conditioning, lora_settings)
        host = self._decoder.around(host, decoder, vae)
        output = upscale(image, host, chosen, settings, progress_bar(image, placement, unique_id))
        if not is_finite(output):
            raise NumericError(
                "The networks' output is not finite (NaN): half precision overflows here. Start ComfyUI with "
                "--fp32-vae, with --force-fp32 if that is not enough."
            )
        if mask is not None:
            output = kept_outside(output, image, mask, placement)
        shown = save_before_after(image, output, placement)
        return {
            "ui": {"dfosd_before_after": shown, "dfosd_origin": [describe_origin(chosen.metadata)]},
            "result": (output,),
        }

    def _source(
        self, lora: str, model: Any, vae: Any, conditioning: Any, lora_settings: LoraSettings | None
    ) -> tuple[Host, DfosdLora]:
        """The LoRA that is on MODEL, the embedded model, or a LoRA file on MODEL and VAE."""
        if _is_embedded(lora, lora_settings):
            self._embedded = load_embedded()
            return self._embedded.host, self._embedded.lora
        loaded = None if lora_settings is None else lora_settings.lora
        chosen = loaded or self._file.read(lora)
        missing = " and ".join(name for name, value in (("model", model), ("vae", vae)) if value is None)
        if missing:
            raise BaseModelMismatchError(
                f"This LoRA needs a base model: connect {missing} of {chosen.metadata.base_model or 'its base'}, or "
                f"choose '{EMBEDDED}'."
            )
        self._embedded = None
        kind = ComfyHost if loaded is None else LoadedLoraHost
        return kind(model, vae, self._clones), with_prompt(chosen, conditioning)


def _is_embedded(lora: str, lora_settings: LoraSettings | None) -> bool:
    """It has a base and a prompt of its own: what is connected for others is not even loaded."""
    return lora == EMBEDDED and lora_settings is None


def _as_loaded(settings: UpscaleSettings, lora: LoraSettings) -> UpscaleSettings:
    """With the strength that the LoRA has on the MODEL. Raises ConfigError for what it cannot do there."""
    if settings.pixel_strength is not None:
        raise ConfigError(
            f"Expected no pixel_strength with DFOSD Load LoRA, found {settings.pixel_strength:g}: its two passes need "
            "the plain MODEL. Choose the LoRA in DFOSD Upscale instead, or set pixel_strength to -1."
        )
    return dataclasses.replace(settings, strength=lora.strength)


def progress_bar(image: Tensor, placement: Placement, unique_id: str | None) -> Any:
    """A progress callback that moves the node's bar and shows the tiles. It raises when the user presses stop."""
    mosaic: Mosaic | None = None
    bar: Any = None

    def show(progress: Progress) -> None:
        nonlocal mosaic, bar
        if mosaic is None:
            mosaic = Mosaic(image, placement)
            bar = comfy.utils.ProgressBar(progress.total, node_id=unique_id)
        tile = progress.tile
        if tile is None:
            bar.update_absolute(progress.done, progress.total)
            return
        picture = mosaic.paste(tile) if progress.phase == "decode" else mosaic.start(tile.image)
        bar.update_absolute(progress.done, progress.total, ("JPEG", picture.copy(), PREVIEW_PX))

    return show
