"""Draws the panel with whatever Gradio is installed, and fails at any warning; needs no torch.

    python tests/app/draw_panel.py              draws it, prints Gradio's version and the number of components
    python tests/app/draw_panel.py --serve 7870 serves it, with Pillow in the networks' place, to be looked at

For an old Gradio: python -m venv OLD; OLD/bin/pip install -r tests/app/gradio_3.41.txt (or gradio_4.40.txt).
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # an old Gradio's own imports
    import gradio as gr
from PIL import Image

from dfosd_core.app.panel import ModelLists, build_panel
from dfosd_core.app.runner import Request, UpscaleFile

TILES = 20


@dataclass
class _Step:
    """What the pipeline's `Progress` has; that one's module imports torch."""

    phase: str
    done: int
    total: int = TILES


@contextmanager
def pillow_engine(request: Request) -> Iterator[UpscaleFile]:
    """Lanczos, slowly, in `TILES` steps."""

    def upscale_file(source: Path, target: Path, progress: Any) -> tuple[int, int]:
        with Image.open(source) as image:
            height, width = request.settings.output_size(image.height, image.width)
            for i in range(TILES):
                time.sleep(0.1)
                progress(_Step("unet", i + 1))
            image.resize((width, height), Image.Resampling.LANCZOS).save(target)
        return height, width

    yield upscale_file


def draw(folder: Path) -> gr.Blocks:
    """A page with the panel on it."""
    lists = ModelLists(
        bases=lambda: ["small base"], loras=lambda: ["small x4", "other"], decoders=lambda: ["full", "light"]
    )
    with gr.Blocks(analytics_enabled=False, title="DFOSD") as page:
        build_panel(pillow_engine, lists, results=folder, previews=folder)
    return page


def draw_empty(_: Path) -> gr.Blocks:
    """A page with nothing: what it warns of is Gradio's own business."""
    with gr.Blocks(analytics_enabled=False) as page:
        pass
    return page


def warnings_of(draw_page: Callable[[Path], gr.Blocks], folder: Path) -> tuple[gr.Blocks, set[str]]:
    """The page, and what was warned of while it was drawn and described."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        page = draw_page(folder)
        page.get_config_file()
    return page, {f"{warning.category.__name__}: {warning.message}" for warning in caught}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        own = warnings_of(draw_empty, Path(folder))[1]
        page, found = warnings_of(draw, Path(folder))
        if found - own:
            sys.exit("\n".join(sorted(found - own)))
        sys.stdout.write(f"Gradio {gr.__version__}: {len(page.blocks)} components, no warning\n")
        if "--serve" in sys.argv:
            page.queue()
            page.launch(server_name="127.0.0.1", server_port=int(sys.argv[sys.argv.index("--serve") + 1]))


if __name__ == "__main__":
    main()
