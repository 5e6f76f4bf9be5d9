"""`POST /dfosd/v1/upscale` in the WebUI's API: one image, all settings, behind the API's own authentication."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from typing import Any

from fastapi import Body, HTTPException
from modules import shared  # pyright: ignore[reportMissingImports]
from modules.call_queue import queue_lock  # pyright: ignore[reportMissingImports]

from ...dfosd_core.app.limits import Limits
from ...dfosd_core.errors import ConfigError, DfosdError, ImageFileError, NumericError
from ...dfosd_core.image_files.picture import Picture
from ...dfosd_core.image_files.read import decode_image, decode_size
from ...dfosd_core.image_files.write import encode_image
from ...dfosd_core.settings import FULL_DECODER, UpscaleSettings
from ...dfosd_core.tiles.run import is_out_of_memory
from .files import AUTOMATIC
from .models import Choice
from .options import option
from .run import RunInterruptedError, upscale_chosen

ROUTE = "/dfosd/v1/upscale"
_NAME = "image"
_FOLDERS = re.compile(r"'(?:/|[A-Za-z]:[/\\])(?:[^']*[/\\])?")
"""Before a file's name in a message: where the models lie is nobody's business."""
STANDARD_ROUTE = "/sdapi/v1/extra-single-image"


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
    image: Any = Body(..., embed=True),  # noqa: B008  # FastAPI's way
    lora: Any = Body(AUTOMATIC, embed=True),  # noqa: B008  # FastAPI's way
    base: Any = Body(AUTOMATIC, embed=True),  # noqa: B008  # FastAPI's way
    settings: Any = Body({}, embed=True),  # noqa: B008  # FastAPI's way
    decoder: Any = Body(FULL_DECODER, embed=True),  # noqa: B008  # FastAPI's way
) -> dict[str, Any]:
    """`image`: a file in base64, `settings`: fields of `UpscaleSettings`. Answers with a PNG file in base64.

    422: what was sent cannot be used, one line says why; 409: interrupted; 507: out of memory; 500: anything else.
    """
    try:
        check_types({"image": image, "lora": lora, "base": base, "decoder": decoder, "settings": settings})
        wanted = UpscaleSettings.from_values(settings)
        data = read_base64(image, wanted)
        with queue_lock:
            shared.state.begin("dfosd")
            shared.state.job_count = 1  # the host says -1, not known, and shows a bar that runs backwards
            try:
                picture = decode_image(data, _NAME)  # here: one at a time, however many ask at once
                result, info = upscale_chosen(picture, wanted, Choice(lora=lora, base=base, decoder=decoder))
            finally:
                shared.state.end()
    except NumericError as error:
        raise HTTPException(status_code=500, detail=str(error)) from error
    except DfosdError as error:
        raise HTTPException(status_code=422, detail=_FOLDERS.sub("'", str(error))) from error
    except RunInterruptedError as error:
        raise HTTPException(status_code=409, detail="Interrupted.") from error
    except (RuntimeError, MemoryError) as error:
        raise HTTPException(status_code=507 if is_out_of_memory(error) else 500, detail=str(error)) from error
    height, width = result.size
    return {"image": write_base64(result), "width": width, "height": height, "info": info}


def check_types(given: Mapping[str, object]) -> None:
    """Raises ConfigError. FastAPI's own answer repeats what was sent, and ends as 500 over NaN or half a character."""
    for name, value in given.items():
        kind, words = (Mapping, "an object") if name == "settings" else (str, "a text")
        if not isinstance(value, kind):
            raise ConfigError(f"Expected {words} as '{name}', found {type(value).__name__}.")


def read_base64(text: str, settings: UpscaleSettings) -> bytes:
    """An image file's bytes, to be read as `dfosd upscale` reads it. Addresses and paths are not followed.

    Raises ImageFileError for what is no image or too large: the file's head decides, before anything is unpacked.
    """
    limits = Limits(megapixels=int(option("megapixels")))
    text = text.partition(",")[2] if text.startswith("data:") else text
    limits.check_file_size(_NAME, len(text) * 3 // 4)
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ImageFileError("Expected an image file in base64, found other text.") from error
    limits.check_result(_NAME, settings.output_size(*decode_size(data, _NAME)))
    return data


def write_base64(picture: Picture) -> str:
    """A PNG file in base64, of 16 bits if the picture has them."""
    buffer = io.BytesIO()
    encode_image(buffer, "PNG", picture)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
