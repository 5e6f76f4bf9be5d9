"""What the panel takes in: how large a file and how large a result. The one place where it is said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import DfosdError, ImageFileError
from ..image_files.read import read_size
from ..settings import UpscaleSettings


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper limits for one image. Larger ones are refused before anything is computed."""

    file_mb: int = 200
    """Of an uploaded file, in millions of bytes."""
    megapixels: int = 100
    """Of a result. float32 in a few copies: 100 megapixels need about 5 GB."""

    def check(self, path: Path, settings: UpscaleSettings) -> tuple[int, int]:
        """(height, width) of the image. Reads the file's head only.

        Raises ImageFileError for what is no image or too large, ConfigError for a size out of reach.
        """
        size = path.stat().st_size
        if size > self.file_mb * 1_000_000:
            raise ImageFileError(
                f"'{path.name}' has {size / 1e6:.0f} MB; at most {self.file_mb} MB are taken. Save it smaller."
            )
        try:
            height, width = read_size(path)
        except ImageFileError as error:
            raise ImageFileError(without_folder(error, path)) from error
        out_height, out_width = settings.output_size(height, width)
        if out_height * out_width > self.megapixels * 1_000_000:
            raise ImageFileError(
                f"'{path.name}' would become {out_width}x{out_height}, {out_height * out_width / 1e6:.0f} megapixels; "
                f"at most {self.megapixels} are made. Choose a smaller scale or cut the image."
            )
        return height, width


def without_folder(error: DfosdError, path: Path) -> str:
    """The message with the file's bare name: where an upload was put is nobody's business."""
    return str(error).replace(str(path), path.name)
