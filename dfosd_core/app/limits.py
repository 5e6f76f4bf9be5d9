"""What the panel takes in: how large a file and how large a result. The one place where it is said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageFileError
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
        if not path.is_file():
            raise ImageFileError(f"'{path.name}' is no longer here. Upload it again.")
        self.check_file_size(path.name, path.stat().st_size)
        size = read_size(path)
        self.check_result(path.name, settings.output_size(*size))
        return size

    def check_file_size(self, name: str, size: int) -> None:
        """Raises ImageFileError for more than so many bytes."""
        if size > self.file_mb * 1_000_000:
            raise ImageFileError(
                f"'{name}' has {size / 1e6:.0f} MB; at most {self.file_mb} MB are taken. Save it smaller."
            )

    def check_result(self, name: str, size: tuple[int, int]) -> None:
        """Raises ImageFileError for a result of more than so many pixels; `size` is its (height, width)."""
        height, width = size
        if height * width > self.megapixels * 1_000_000:
            raise ImageFileError(
                f"'{name}' would become {width}x{height}, {height * width / 1e6:.0f} megapixels; "
                f"at most {self.megapixels} are made. Choose a smaller scale or cut the image."
            )


def without_folder(line: str, *files: Path) -> str:
    """The line with the files' bare names: where an upload was put is nobody's business."""
    for file in files:
        line = line.replace(str(file), file.name)
    return line
