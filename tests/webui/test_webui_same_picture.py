"""The table of docs/formats.md held against real WebUIs: equal pixels, and what the tab, the API and Extras keep."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.same_picture import documented, row, write_pictures
from test_same_picture import by_command, opened_by_extras
from webui_calls import EMBEDDED, ok, options
from webui_process import WebUI

from dfosd_core.image_files.picture import Picture
from dfosd_core.image_files.pil import from_pil
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.write import write_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Here and in the host, which is started below: another number may round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name in ("in", "out", "expected"):
        (tmp_path / name).mkdir()
    return write_pictures(tmp_path / "in")


def expected(file: Path, handed: Callable[[Path], Picture] | None = None) -> Picture:
    """The command's result."""
    folder = file.parents[1] / "expected"
    if handed:
        picture, file = handed(file), folder / f"handed_{file.stem}.png"
        write_image(file, picture)
    (folder / "out").mkdir(exist_ok=True)
    return read_image(by_command(file, folder / "out"))


def test_tab_and_route(webui: WebUI, files: list[Path]) -> None:
    tab, route = {}, {}
    for file in files:
        target = file.parents[1] / "out" / f"{file.stem}.png"
        facts = {"source": str(file), "target": str(target), "scale": 2.0, **EMBEDDED}
        ok(webui.post("/dfosd-probe/tab", facts))
        body = {"image": base64.b64encode(file.read_bytes()).decode(), **EMBEDDED, "settings": {"scale": 2.0}}
        answer = ok(webui.post("/dfosd/v1/upscale", body))
        sent = target.with_suffix(".route.png")
        sent.write_bytes(base64.b64decode(answer["image"]))
        assert np.array_equal(read_image(target).samples, read_image(sent).samples)
        wanted = expected(file)
        tab[file], route[file] = (target, wanted), (sent, wanted)
    assert row(tab) == documented()["WebUIs: tab"]
    assert row(route) == documented()["WebUIs: `/dfosd/v1/upscale`"]


def test_folder_in_extras(webui: WebUI, files: list[Path]) -> None:
    """Batch from Directory, with a file in it that is no image."""
    folder, out = files[0].parent, files[0].parents[1] / "out"
    (folder / "broken.png").write_bytes(b"none")
    with options(webui, use_original_name_batch=True, samples_format="png"):
        values = {**EMBEDDED, "scale": 2.0}
        answer = ok(
            webui.post("/dfosd-probe/extras_folder", {"source": str(folder), "target": str(out), "values": values})
        )
    assert "DFOSD model: embedded small x4" in answer["said"]
    results = {file: next(out.glob(f"{file.stem}*.png")) for file in files}
    assert len(list(out.iterdir())) == len(files)
    compared = {}
    for file, result in results.items():
        compared[file] = result, expected(file, lambda path: from_pil(opened_by_extras(path)))
        assert "DFOSD scale: 2" in Image.open(result).info["postprocessing"]
    assert row(compared) == documented()["WebUIs: *Extras*"]
