"""DFOSD as one of the WebUI's upscalers: in Extras, hires fix, img2img, SD upscale and the standard API."""

from __future__ import annotations

from typing import Any

from modules import scripts, shared  # pyright: ignore[reportMissingImports]
from modules.upscaler import Upscaler, UpscalerData  # pyright: ignore[reportMissingImports]
from PIL import Image

from ...dfosd_core.errors import DfosdError
from ...dfosd_core.image_files.pil import from_pil, to_pil
from ...dfosd_core.sizes import MAX_SCALE
from .models import Choice
from .options import SETTINGS, option, upscaler_settings
from .run import RunInterruptedError, upscale_image

NAME = "DFOSD x4"
MADE_WITH = "dfosd_made_with"
"""An attribute of our results: the options of the run, None if it was interrupted."""


class UpscalerDFOSD(Upscaler):  # pyright: ignore[reportUntypedBaseClass]
    """Settings come from the options page; the size is exact."""

    name = "DFOSD"

    def __init__(self, dirname: str | None = None) -> None:
        super().__init__(False)
        self.scalers = [UpscalerData(NAME, None, self, 4)]

    def upscale(self, img: Image.Image, scale: float, selected_model: str | None = None) -> Image.Image:
        """In one pass, where the host's own would go round and then cut to multiples of 8."""
        size = max(round(img.width * scale), 1), max(round(img.height * scale), 1)
        if scale <= 1:
            return img.resize(size, Image.Resampling.LANCZOS)
        made_with: str | None = options_now()
        try:
            settings = upscaler_settings(min(scale, MAX_SCALE))
            # 8-bit RGB is what hosts take from an upscaler: Extras blends two of them, img2img has nothing else.
            rgb = to_pil(from_pil(img).without_alpha().with_three_colors().to_8_bit())
            choice = Choice(lora=option("lora"), base=option("base"), decoder=option("decoder"))
            larger, _ = upscale_image(rgb, settings, choice)
        except RunInterruptedError:
            larger, made_with = img, None  # the host throws it away, or goes on with it as it is
        except DfosdError as error:
            raise RuntimeError(f"DFOSD: {error}") from error
        result = larger if larger.size == size else larger.resize(size, Image.Resampling.LANCZOS)
        setattr(result, MADE_WITH, made_with)
        return result

    def do_upscale(self, img: Image.Image, selected_model: str | None = None) -> Image.Image:
        """For whoever passes `upscale` by."""
        return self.upscale(img, 4.0, selected_model)

    def load_model(self, path: str) -> Any:
        """The host's base class asks for it; there is no file."""


def options_now() -> str:
    """What on the settings page changes the picture."""
    return repr([option(name) for name in ("lora", "base", "decoder", *SETTINGS)])


def forget_outdated() -> None:
    """Extras keeps its last results: take out what an interrupted run left there, or was made with other options."""
    for script in scripts.scripts_postproc.scripts:
        # The script of the WebUI is no module that can be imported.
        cache = getattr(getattr(type(script), "upscale", None), "__globals__", {}).get("upscale_cache", {})
        for key, image in list(cache.items()):
            if getattr(image, MADE_WITH, options_now()) != options_now():
                del cache[key]


def add_where_missing() -> None:
    """reForge makes its list from classes it names itself; the others have found us already."""
    if not any(data.name == NAME for data in shared.sd_upscalers):
        shared.sd_upscalers.extend(UpscalerDFOSD().scalers)
