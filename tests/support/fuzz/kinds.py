"""What is damaged, and what is then done with it."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import safetensors.torch
import torch

from dfosd_core.cli import main as main_module
from dfosd_core.cli.arguments import make_parser
from dfosd_core.errors import DfosdError
from dfosd_core.image_files.read import decode_image, decode_size
from dfosd_core.image_files.write import check_target, write_image
from dfosd_core.lora.file import save_lora
from dfosd_core.lora.open import open_lora
from dfosd_core.networks.light_decoder import is_decoder
from dfosd_core.networks.reading import read_base
from dfosd_core.settings import UpscaleSettings
from dfosd_core.tensor_files import context_dim, kind_of_file

from ..small_files import CONFIG, FILE_NAMES, FOLDERS, SMALL, WEIGHTS, records, zipped
from ..tiny_models import ldm_tensors, random_lora, tiny_host
from .changes import ODD_TEXTS, odd_bytes, odd_safetensors, odd_tree, odd_value
from .loop import Kind, wrong_line
from .requests import draw_body, draw_upload, use_body, use_upload
from .samples import pictures

ROOT = Path(__file__).parents[3]


def draw_picture(rng: Random, folder: Path) -> Path:
    path = folder / "a.png"
    path.write_bytes(odd_bytes(rng, rng.choice(list(pictures().values()))))
    return path


def use_picture(path: Path, out: Path) -> None:
    data = path.read_bytes()
    size = decode_size(data, "a.png")
    picture = decode_image(data, "a.png", sequences=True)
    assert picture.size == size
    assert picture.samples.ndim == 3
    assert picture.samples.dtype in (np.uint8, np.uint16)
    if picture.samples.size < 100_000:
        target = out / ("b.png" if len(data) % 3 else "b.tif")
        check_target(target, picture, picture.size)
        write_image(target, picture)
        again = decode_image(target.read_bytes(), "b", sequences=True)
        assert np.array_equal(again.with_three_colors().samples, picture.with_three_colors().samples)


@cache
def loras() -> dict[str, bytes]:
    """DFOSD's own, other methods' in a few narrow layers, and ordinary ones: name -> the file."""
    made, folder = dict[str, bytes](), Path(__file__).parent
    buffer = Path(folder, ".seed")
    save_lora(buffer, random_lora(tiny_host()))
    made["x.safetensors"] = buffer.read_bytes()
    buffer.unlink()
    for name in ("osediff", "pisa_sr", "hypir"):
        made[FILE_NAMES[name]] = zipped(records(SMALL[name]()))
    made["hypir.safetensors"] = safetensors.torch.save(SMALL["hypir"]())
    return made


def draw_lora(rng: Random, folder: Path) -> Path:
    name = rng.choice(list(loras()))
    blob, path = loras()[name], folder / name
    if name.endswith(".safetensors"):
        path.write_bytes(odd_safetensors(rng, blob))
    elif rng.random() < 0.5:
        path.write_bytes(odd_bytes(rng, blob))
    else:
        entries = SMALL[next(method for method, file in FILE_NAMES.items() if file == name)]()
        save(odd_tree(rng, entries), path)
    return path


def save(content: object, path: Path) -> None:
    """torch.save, which fails itself at lists in lists in lists."""
    try:
        torch.save(content, path)
    except RecursionError:
        torch.save({"a": 1}, path)


def draw_lora_folder(rng: Random, folder: Path) -> Path:
    path, entries = folder / FILE_NAMES["omgsr"], SMALL["omgsr"]()
    damaged = rng.choice(FOLDERS)
    for part in FOLDERS:
        (path / part).mkdir(parents=True)
        blob, settings = safetensors.torch.save(entries[part]), entries[f"{part}/{CONFIG}"]
        if part == damaged and rng.random() < 0.5:
            blob = odd_safetensors(rng, blob)
        elif part == damaged:
            settings = odd_tree(rng, settings)
        (path / part / WEIGHTS).write_bytes(blob)
        (path / part / CONFIG).write_text(json.dumps(settings))
    return path


def use_lora(path: Path, out: Path) -> None:
    kind_of_file(path)
    is_decoder(path)
    context_dim(path)
    command("info", path)
    save_lora(out / "converted.safetensors", open_lora(path))


@cache
def bases() -> dict[str, Any]:
    """The tensors of a whole checkpoint in few layers, and of its parts, with their configurations."""
    tiny = tiny_host()
    narrow = {key: value.half() for key, value in ldm_tensors(tiny).items()}
    parts: dict[str, Any] = {part: getattr(tiny, part) for part in ("unet", "vae")}
    return {
        "tensors": narrow,
        "blob": safetensors.torch.save(narrow),
        "configs": {part: json.loads(json.dumps(dict(net.config), default=list)) for part, net in parts.items()},
        "weights": {part: safetensors.torch.save(net.state_dict()) for part, net in parts.items()},
    }


def draw_checkpoint(rng: Random, folder: Path) -> Path:
    tensors: dict[str, Any] = bases()["tensors"]
    if rng.random() < 0.5:
        path = folder / "base.safetensors"
        path.write_bytes(odd_safetensors(rng, bases()["blob"]))
        return path
    path = folder / "base.ckpt"
    few: dict[str, Any] = tensors
    if rng.random() < 0.7:  # less to write
        few = {key: tensors[key] for key in rng.sample(list(tensors), 12)}
    if rng.random() < 0.5:
        changed: Any = odd_tree(rng, {"state_dict": few, "epoch": 3})
        save(changed, path)
    else:
        path.write_bytes(odd_bytes(rng, zipped(records({"state_dict": few}))))
    return path


def draw_base_folder(rng: Random, folder: Path) -> Path:
    path = folder / "base"
    damaged = rng.choice(("unet", "vae", "scheduler"))
    for part in ("unet", "vae"):
        (path / part).mkdir(parents=True)
        config = bases()["configs"][part]
        text = json.dumps(odd_tree(rng, config) if part == damaged else config)
        file = path / part / "config.json"
        match rng.randrange(30):
            case 0:
                file.mkdir()
            case 1:
                file.write_bytes(odd_bytes(rng, text.encode()))
            case 2:
                file.write_text("[" * 50_000)
            case _:
                file.write_text(text)
        weights = path / part / "diffusion_pytorch_model.safetensors"
        match rng.randrange(10):
            case 0:
                weights.write_bytes(odd_safetensors(rng, bases()["weights"][part]))
            case 1 | 2:
                weights.write_bytes(bases()["weights"][part])
            case _:
                pass  # less to write: the configurations are looked at first
    (path / "scheduler").mkdir()
    scheduler = {"prediction_type": "epsilon"}
    text = json.dumps(odd_tree(rng, scheduler) if damaged == "scheduler" else scheduler)
    (path / "scheduler" / "scheduler_config.json").write_text(text)
    return path


def use_base(path: Path, out: Path) -> None:
    kind_of_file(path)
    context_dim(path)
    read_base(path)


@cache
def configs() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "train_tools" / "configs").glob("*.yaml"))]


def draw_config(rng: Random, folder: Path) -> Path:
    path, blob = folder / "config.yaml", rng.choice(configs())
    if rng.random() < 0.4:
        blob = odd_bytes(rng, blob)
    else:
        import yaml

        blob = yaml.safe_dump(odd_tree(rng, yaml.safe_load(blob)), allow_unicode=True).encode("utf-8", "replace")
    path.write_bytes(blob)
    return path


def use_config(path: Path, out: Path) -> None:
    from train_tools.settings.config_file import dump_config, load_config

    config = load_config(path)
    (out / "again.yaml").write_text(dump_config(config))
    assert load_config(out / "again.yaml") == config


def draw_settings(rng: Random, folder: Path) -> Path:
    names = list(UpscaleSettings.__dataclass_fields__)
    body = {rng.choice(names): odd_value(rng) for _ in range(rng.randint(1, 3))}
    if rng.random() < 0.1:
        body[rng.choice(ODD_TEXTS)] = odd_value(rng)
    path = folder / "body.json"
    path.write_text(json.dumps({"settings": body, "size": [rng.randint(1, 5000), rng.randint(1, 5000)]}))
    return path


def use_settings(path: Path, out: Path) -> None:
    body: Any = json.loads(path.read_text())
    settings = UpscaleSettings.from_values(body["settings"])
    height, width = settings.output_size(*body["size"])
    assert min(height, width) >= 1
    assert "/" not in settings.size_name


_parser = cache(make_parser)
"""Built once: it would take half of the time."""


def command(*arguments: object) -> None:
    """The command in this process. Raises DfosdError where it fails as it should: one line, and not 0."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), patch.object(main_module, "make_parser", _parser):
        code = main_module.main([str(argument) for argument in arguments])
    if code:
        raise DfosdError(err.getvalue().strip())
    assert not [line for line in out.getvalue().splitlines() if wrong_line(line).startswith("a message that")]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("picture", draw_picture, use_picture, 420),
        Kind("lora", draw_lora, use_lora, 50),
        Kind("lora-folder", draw_lora_folder, use_lora, 120),
        Kind("checkpoint", draw_checkpoint, use_base, 15),
        Kind("base-folder", draw_base_folder, use_base, 15),
        Kind("config", draw_config, use_config, 6),
        Kind("settings", draw_settings, use_settings, 354),
        Kind("api-body", draw_body, use_body, 10),
        Kind("upload", draw_upload, use_upload, 10),
    )
}
