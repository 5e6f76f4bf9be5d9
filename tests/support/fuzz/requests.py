"""What comes over the network: bodies for the WebUI's API, and uploads with settings for the app."""

from __future__ import annotations

import base64
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dfosd_core import pipeline
from dfosd_core.app.limits import Limits
from dfosd_core.app.runner import Request, Run, UpscaleFile, Workplace
from dfosd_core.app.view import compare, progress
from dfosd_core.attach import attached
from dfosd_core.errors import DfosdError
from dfosd_core.image_files.read import decode_image
from dfosd_core.settings import UpscaleSettings
from dfosd_core.upscale_file import upscale_file

from ..fakes.empty_webui import PACK, faces
from ..tiny_models import random_lora, tiny_host
from .changes import ODD_TEXTS, odd_bytes, odd_tree, odd_value
from .samples import pictures

NETWORKS_PX = 6000
"""Results of more pixels are made by repeating the input's: what the networks do is not in question here."""
CPU = torch.device("cpu")
NAMES = ("a.png", "a.png", "b.tif", "a\nb.png", "\x1b[31m.png", "\udcff.png", "<b>.png", "x" * 240 + ".png", ".png")


@contextmanager
def _little_computing(module: Any) -> Iterator[None]:
    """Inside the block `module`, dfosd_core.pipeline or a copy of it, runs networks for small results only."""
    real: Callable[..., Tensor] = module.upscale_attached

    def upscale(image: Tensor, host: Any, lora: Any, settings: UpscaleSettings, *progress: Any) -> Tensor:
        size = settings.output_size(image.shape[1], image.shape[2])
        if size[0] * size[1] <= NETWORKS_PX:
            return real(image, host, lora, settings, *progress)
        larger = torch.nn.functional.interpolate(image.movedim(-1, 1).float(), size)
        return larger.movedim(1, -1)

    module.upscale_attached = upscale
    try:
        yield
    finally:
        module.upscale_attached = real


@cache
def _tiny() -> tuple[Any, Any]:
    host = tiny_host()
    return host, random_lora(host)


def _odd_settings(rng: Random) -> dict[str, Any]:
    names = list(UpscaleSettings.__dataclass_fields__)
    right = {"scale": rng.choice((1, 2, 1.5, "3")), "color_fix": "none", "width": 30, "height": 20}
    return {
        name: right[name] if name in right and rng.random() < 0.7 else odd_value(rng)
        for name in rng.sample(names, rng.randint(0, 2))
    }


def draw_upload(rng: Random, folder: Path) -> Path:
    blob = rng.choice(list(pictures().values()))
    place = folder / "upload"
    place.mkdir()
    (place / rng.choice(NAMES)).write_bytes(odd_bytes(rng, blob) if rng.random() < 0.7 else blob)
    (folder / "settings.json").write_text(json.dumps(_odd_settings(rng)))
    return place


def use_upload(path: Path, out: Path) -> None:
    settings = UpscaleSettings.from_values(json.loads((path.parent / "settings.json").read_text()))
    place = Workplace(engine=_engine, results=out / "results", previews=out / "previews", limits=Limits(megapixels=1))
    run = Run(workplace=place, request=Request(settings=settings), files=list(path.iterdir()))
    with _little_computing(pipeline):
        run.start()
        run.join()
    progress(run.now, 1.0)
    assert run.now.is_over
    for pair in run.now.pairs:
        compare(pair)
        assert pair.result.parent.parent == place.results
    for line in run.now.problems:
        assert "unexpected" not in line, line
        raise DfosdError(line)


@contextmanager
def _engine(request: Request) -> Iterator[UpscaleFile]:
    host, lora = _tiny()
    with attached(host, lora, request.settings) as with_lora:
        yield partial(upscale_file, host=with_lora, lora=lora, settings=request.settings, device=CPU)


def draw_body(rng: Random, folder: Path) -> Path:
    blob = rng.choice(list(pictures().values()))
    text = base64.b64encode(odd_bytes(rng, blob) if rng.random() < 0.5 else blob).decode()
    if rng.random() < 0.1:
        text = rng.choice((text[:-1], text + "\u4e2d", f"data:,{text}", "data:", "/etc/passwd", *ODD_TEXTS))
    body: Any = {"image": text, "settings": _odd_settings(rng)}
    if rng.random() < 0.3:
        body = odd_tree(rng, body | {"lora": "automatic", "base": "automatic", "decoder": "full"})
    data = json.dumps(body).encode()
    path = folder / "body.json"
    path.write_bytes(odd_bytes(rng, data) if rng.random() < 0.1 else data)
    return path


def use_body(path: Path, out: Path) -> None:
    client, route, kept = _api()
    with _among_modules(kept), _little_computing(kept[f"{PACK}.dfosd_core.pipeline"]):
        answer = client.post(route, content=path.read_bytes(), headers={"content-type": "application/json"})
    said = answer.json()
    if answer.status_code == 200:
        size = said["height"], said["width"]
        assert decode_image(base64.b64decode(said["image"]), "result", sequences=True).size == size
        return
    assert answer.status_code in (400, 422), f"{answer.status_code}: {answer.text[:150]}"
    # FastAPI's own refusals are lists of what it does not find.
    raise DfosdError(said["detail"] if isinstance(said["detail"], str) else "No body that the route takes.")


@cache
def _api() -> tuple[Any, str, dict[str, ModuleType]]:
    """A client of an application with our route, its path, and the modules that it needs while it answers."""
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    with faces() as import_face:
        api, run = import_face("api"), import_face("run")
        api.shared.opts.dfosd_megapixels = 1
        run.chosen_model = _tiny_model(run)
        application = FastAPI()
        application.add_api_route(api.ROUTE, api.upscale, methods=["POST"])
        importlib.import_module(f"{PACK}.dfosd_core.pipeline")
        kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in (PACK, "modules")}
    return TestClient(application), api.ROUTE, kept


def _tiny_model(run: Any) -> Callable[[object], Any]:
    host, lora = _tiny()

    @contextmanager
    def chosen_model(_: object) -> Iterator[Any]:
        yield run.Model(host=host, lora=lora, lora_name="tiny", base_name="tiny", device=CPU)

    return chosen_model


@contextmanager
def _among_modules(kept: Mapping[str, ModuleType]) -> Iterator[None]:
    sys.modules.update(kept)
    try:
        yield
    finally:
        for name in kept:
            del sys.modules[name]
