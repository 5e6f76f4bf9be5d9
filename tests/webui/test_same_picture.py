"""One picture through every program, with the embedded model: equal pixels, and what each keeps of the rest.

The programs here are the tests' own small ones; test_webui_same_picture.py and test_comfy_same_picture.py hold the same
table against real ones.
"""

from __future__ import annotations

import base64
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from support.fakes.comfyui import ComfyUI
from support.fakes.install import installed
from support.fakes.webui import WebUI
from support.same_picture import COLUMNS, DOCS, row, write_pictures

from dfosd_core.app.engine import LocalEngine
from dfosd_core.app.model_files import ModelFiles
from dfosd_core.app.runner import Request, Run, Workplace
from dfosd_core.cli.main import main
from dfosd_core.image_files.picture import Picture
from dfosd_core.image_files.pil import from_pil
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.tensors import to_picture
from dfosd_core.image_files.write import write_image
from dfosd_core.networks.embedded import EMBEDDED_BASE, EMBEDDED_LORA
from dfosd_core.settings import UpscaleSettings

pytest.importorskip("gradio")  # every WebUI has one
SETTINGS = UpscaleSettings(scale=2.0)
EMBEDDED_IN_COMFY = "embedded small x4 (no model needed)"
Upscale = Callable[[Path, Path], Path]
"""(file, folder for results) -> the result."""


def by_command(source: Path, folder: Path) -> Path:
    result = folder / f"{source.stem}.png"
    assert main(["upscale", str(source), "-o", str(result), "--scale", "2", "--quiet", "--device", "cpu"]) == 0
    return result


def by_app(source: Path, folder: Path) -> Path:
    engine = LocalEngine(ModelFiles(), torch.device("cpu"))
    return run_panel(engine, Request(settings=SETTINGS, base=EMBEDDED_BASE, lora=EMBEDDED_LORA), source, folder)


def run_panel(engine: Any, request: Any, source: Path, folder: Path) -> Path:
    run = Run(Workplace(engine=engine, results=folder, previews=folder), request, [source])
    run.start()
    run.join(60)
    assert run.now.problems == ()
    return run.now.pairs[0].result


@contextmanager
def webui(kind: str, folder: Path) -> Iterator[Callable[[str], Any]]:
    """Gives a function that imports DFOSD's modules in it."""
    program = WebUI(kind, folder)
    program.state.begin = program.state.end = lambda *_: None
    more: dict[str, Any] = {"modules.call_queue": {"queue_lock": threading.Lock()}}
    with installed(program.modules() | more) as pack:
        yield lambda name: importlib.import_module(f"{pack}.{name}")


def by_tab(part: Callable[[str], Any], source: Path, folder: Path) -> Path:
    request = part("dfosd_core.app.runner").Request(
        settings=part("dfosd_core.settings").UpscaleSettings(scale=2.0), lora=EMBEDDED_LORA
    )
    return run_panel(part("nodes.webui.tab").engine, request, source, folder)


def by_route(part: Callable[[str], Any], source: Path, folder: Path) -> Path:
    text = base64.b64encode(source.read_bytes()).decode()
    answer = part("nodes.webui.api").upscale(text, EMBEDDED_LORA, "automatic", {"scale": 2.0}, "full")
    (folder / f"{source.stem}.png").write_bytes(base64.b64decode(answer["image"]))
    return folder / f"{source.stem}.png"


def opened_by_extras(source: Path) -> Image.Image:
    """What A1111, Forge and reForge give to the scripts of Extras."""
    image = ImageOps.exif_transpose(Image.open(source))
    assert image is not None
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGB")


def by_extras(part: Callable[[str], Any], source: Path, folder: Path) -> Path:
    """As they do it: the script changes the image, and the input's texts, and nothing else, go into the PNG."""
    image = opened_by_extras(source)
    texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    job = SimpleNamespace(image=image, info={})
    part("nodes.webui.extras").DfosdExtras().process(job, enable=True, lora=EMBEDDED_LORA, scale=2.0)
    written = PngInfo()
    for key, value in {**texts, "postprocessing": str(job.info)}.items():
        written.add_text(key, value)
    job.image.info = {}
    job.image.save(folder / f"{source.stem}.png", pnginfo=written)
    return folder / f"{source.stem}.png"


def loaded_by_comfyui(source: Path) -> torch.Tensor:
    """Load Image, and Join Image with Alpha where there is a mask."""
    image = ImageOps.exif_transpose(Image.open(source))
    assert image is not None
    image = image.convert("RGBA" if "A" in image.getbands() else "RGB")
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)[None]


def by_comfyui(pack: str, source: Path, folder: Path) -> Path:
    node = importlib.import_module(f"{pack}.nodes.comfy.mappings").NODE_CLASS_MAPPINGS["DFOSDUpscale"]()
    (output,) = node.run(loaded_by_comfyui(source), EMBEDDED_IN_COMFY, scale=2.0)["result"]
    # Save Image cuts off what is behind the point; here it is rounded, to be compared.
    Image.fromarray(to_picture(output).samples).save(folder / f"{source.stem}.png")
    return folder / f"{source.stem}.png"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("in"))


class Judge:
    """Compares each program's result with the command's, for what the program hands over of the file."""

    def __init__(self, files: list[Path], folder: Path) -> None:
        self.files, self.folder = files, folder
        self.known: dict[bytes, Picture] = {}

    def cells(self, name: str, upscale: Upscale, handed: Callable[[Path], Picture] | None = None) -> str:
        out = self.folder / name
        out.mkdir()
        return row({file: (upscale(file, out), self.expected(file, handed)) for file in self.files})

    def expected(self, file: Path, handed: Callable[[Path], Picture] | None) -> Picture:
        if handed:
            whole, file = handed(file), self.folder / "handed.png"
            write_image(file, whole, overwrite=True)
        key = file.read_bytes()
        if key not in self.known:
            out = self.folder / f"{len(self.known)}"
            out.mkdir()
            self.known[key] = read_image(by_command(file, out))
        return self.known[key]


def rows(files: list[Path], folder: Path) -> dict[str, str]:
    (folder / "expected").mkdir()
    judge = Judge(files, folder / "expected")
    cells = {"`dfosd upscale`": judge.cells("command", by_command), "`dfosd app`": judge.cells("app", by_app)}
    with webui("a1111", folder / "a1111") as part:
        cells["WebUIs: tab"] = judge.cells("tab", lambda source, out: by_tab(part, source, out))
        cells["WebUIs: `/dfosd/v1/upscale`"] = judge.cells("route", lambda source, out: by_route(part, source, out))
        cells["WebUIs: *Extras*"] = judge.cells(
            "extras",
            lambda source, out: by_extras(part, source, out),
            lambda source: from_pil(opened_by_extras(source)),
        )
    with installed(ComfyUI(folder / "comfy").modules()) as pack:
        cells["ComfyUI: Load Image, DFOSD Upscale, Save Image"] = judge.cells(
            "comfyui",
            lambda source, out: by_comfyui(pack, source, out),
            lambda source: to_picture(loaded_by_comfyui(source)),
        )
    return cells


@pytest.mark.slow
def test_every_program_gives_equal_pixels_and_the_page_says_what_it_keeps(files: list[Path], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # another number may round differently
    try:
        cells = rows(files, tmp_path)
    finally:
        torch.set_num_threads(before)
    assert {name: row.split(" | ")[0] for name, row in cells.items()} == dict.fromkeys(cells, "equal")
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    lines += [f"| {name} | {row} |" for name, row in cells.items()]
    found = "\n".join(lines)
    assert found in DOCS.read_text("utf-8"), f"put this table into docs/formats.md:\n{found}"
