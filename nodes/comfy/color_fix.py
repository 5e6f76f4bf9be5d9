"""DFOSD Color Fix for ComfyUI."""

from __future__ import annotations

from torch import Tensor

from ...dfosd_core.color_fix import fix_color
from ...dfosd_core.errors import ImageFileError
from ...dfosd_core.images import resize, to_bchw, to_bhwc
from ...dfosd_core.settings import COLOR_FIX_NAMES
from .errors import with_short_errors
from .inputs import Inputs, settings_inputs


class DFOSDColorFix:
    """Give images the colours of others: the fix that DFOSD Upscale ends with, for any upscaler."""

    CATEGORY = "image/upscaling"
    SEARCH_ALIASES = ("color match", "colour match", "color transfer", "wavelet", "adain")
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

    @with_short_errors
    def run(self, image: Tensor, reference: Tensor, method: str) -> tuple[Tensor]:
        """Raises ImageFileError when the numbers of images do not match."""
        if reference.shape[0] not in (1, image.shape[0]):
            raise ImageFileError(
                f"Expected one reference image or {image.shape[0]}, one for each image, found {reference.shape[0]}."
            )
        output = image.clone()
        for i in range(image.shape[0]):
            x = to_bchw(output[i : i + 1, ..., :3].float())
            like = to_bchw(reference[i % reference.shape[0]][None, ..., :3].float().to(x.device))
            like = resize(like, (x.shape[-2], x.shape[-1])).clamp(0.0, 1.0)
            output[i : i + 1, ..., :3] = to_bhwc(fix_color(method, x, like)).clamp(0.0, 1.0)
        return (output,)
