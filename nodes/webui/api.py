"""`POST /dfosd/v1/upscale` in the WebUI's API: one image, all settings, behind the API's own authentication."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fastapi import Body, HTTPException
from modules import shared  # pyright: ignore[reportMissingImports]
from modules.call_queue import queue_lock  # pyright: ignore[reportMissingImports]
from PIL import Image

from ...dfosd_core.app.limits import Limits
from ...dfosd_core.errors import ConfigError, DfosdError, ImageFileError
from ...dfosd_core.settings import UpscaleSettings
from ...dfosd_core.tiles.run import is_out_of_memory
from .files import AUTOMATIC
from .models import Choice
from .options import option
from .run import RunInterruptedError, upscale_image

ROUTE = "/dfosd/v1/upscale"
STANDARD_ROUTE = "/sdapi/v1/extra-single-image"
MAX_MEGAPIXELS_IN = 100
"""Of an image sent in: what stands in its head decides, before anything is unpacked."""


def add_route(demo: Any, app: Any) -> None:
    """`on_app_started`. Without --api there is no API, and none of ours. `demo` is None under --nowebui."""
    if any(getattr(route, "path", "") == ROUTE for route in app.routes):
        return
    for route in app.routes:
        if getattr(route, "path", "") == STANDARD_ROUTE:
            # The host's own object: its `add_api_route` asks for --api-auth's password. SD.Next keeps it elsewhere.
            owner = route.endpoint.__self__
            api = owner if hasattr(owner, "add_api_route") else shared.api
            api.add_api_route(ROUTE, upscale, methods=["POST"])
            return


def upscale(
    image: str = Body(..., embed=True),
    lora: str = Body(AUTOMATIC, embed=True),
    base: str = Body(AUTOMATIC, embed=True),
    settings: Mapping[str, Any] = Body({}, embed=True),
) -> dict[str, Any]:
    """`image`: a file in base64, `settings`: fields of `UpscaleSettings`. Answers with a PNG file in base64.

    422: what was sent cannot be used, one line says why; 409: interrupted; 507: out of memory.
    """
    try:
        wanted = settings_from(settings)
        picture = read_image(image, wanted)
        with queue_lock:
            shared.state.begin("dfosd")
            shared.state.job_count = 1  # the host says -1, not known, and shows a bar that runs backwards
            try:
                result, info = upscale_image(picture, wanted, Choice(lora=lora, base=base))
            finally:
                shared.state.end()
    except DfosdError as error:
        raise HTTPException(status_code=422, detail=str(error)) from error
    except RunInterruptedError as error:
        raise HTTPException(status_code=409, detail="Interrupted.") from error
    except (RuntimeError, MemoryError) as error:
        raise HTTPException(status_code=507 if is_out_of_memory(error) else 500, detail=str(error)) from error
    return {"image": write_image(result), "width": result.width, "height": result.height, "info": info}


def settings_from(given: Mapping[str, Any]) -> UpscaleSettings:
    """Raises ConfigError for a value outside its limits and for a name that is none."""
    names = [field.name for field in fields(UpscaleSettings)]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ConfigError(f"There is no setting '{unknown[0]}'. Settings are {', '.join(names)}.")
    return UpscaleSettings(**given)


def read_image(text: str, settings: UpscaleSettings) -> Image.Image:
    """Raises ImageFileError for what is no image or too large. Addresses and paths are not followed."""
    limits = Limits(megapixels=int(option("megapixels")))
    text = text.partition(",")[2] if text.startswith("data:") else text
    if len(text) > limits.file_mb * 1_000_000 * 4 // 3:
        raise ImageFileError(f"The image has more than {limits.file_mb} MB. Send a smaller one.")
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
        check_size(image.width, image.height, settings, limits)
        image.load()
    except binascii.Error as error:
        raise ImageFileError("Expected an image file in base64, found other text.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageFileError(f"The image cannot be read: {error}.") from error
    return image


def check_size(width: int, height: int, settings: UpscaleSettings, limits: Limits) -> None:
    """Raises ImageFileError when the image or its result is too large."""
    if width * height > MAX_MEGAPIXELS_IN * 1_000_000:
        raise ImageFileError(
            f"The image has {width}x{height} pixels; at most {MAX_MEGAPIXELS_IN} megapixels are taken."
        )
    out_height, out_width = settings.output_size(height, width)
    if out_height * out_width > limits.megapixels * 1_000_000:
        raise ImageFileError(
            f"The image would become {out_width}x{out_height}; at most {limits.megapixels} megapixels are made. "
            "Ask for a smaller scale, or change the limit in the settings."
        )


def write_image(image: Image.Image) -> str:
    """A PNG file in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
