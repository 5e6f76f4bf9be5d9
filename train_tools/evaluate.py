"""Judge a LoRA on pairs of photographs: PSNR-Y, SSIM-Y and DISTS beside bicubic, a table and a contact sheet.

    python -m train_tools.evaluate PAIRS --vgg vgg16.safetensors --dists dists.safetensors [--sheet sheet.png]

PAIRS holds `LR/` and `HR/` with the same file names; each further folder beside them (a peer's output) gets a row too.
Everything goes through `pipeline.upscale` with the default settings, rounded to 8 bit as a saved file would be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dfosd_core import images
from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.hosts.diffusers import fast_dtype, load_base, load_default
from dfosd_core.lora import load_lora
from dfosd_core.pipeline import UpscaleSettings, upscale_attached
from dfosd_core.training.dists import Dists

from .metrics import psnr_y, ssim_y

METRICS = ("PSNR-Y", "SSIM-Y", "DISTS")
CELL_PX = 256
SHEET_ROWS = 8


def read(path: Path) -> Tensor:
    """An 8-bit image file as (1, 3, H, W) in [0, 1]."""
    with Image.open(path) as image:
        return images.to_bchw(torch.from_numpy(np.array(image.convert("RGB")))[None].float() / 255)


def round_to_8_bit(x: Tensor) -> Tensor:
    """What a saved file would hold."""
    return (x.clamp(0, 1) * 255).round() / 255


def evaluate(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return {method: {metric: mean}} and draw the sheet."""
    names = sorted(p.name for p in (args.pairs / "HR").iterdir())
    if not names or any(not (args.pairs / "LR" / name).is_file() for name in names):
        raise ConfigError(f"Expected '{args.pairs}' to hold LR/ and HR/ with the same file names.")
    dists = Dists.from_files(args.vgg, args.dists)
    host, lora = (
        load_default(args.dtype) if args.base is None else (load_base(args.base, args.dtype), load_lora(args.lora))
    )
    if args.lora is not None:
        lora = load_lora(args.lora)
    settings = UpscaleSettings(color_fix=args.color_fix or UpscaleSettings().color_fix)
    others = sorted(p.name for p in args.pairs.iterdir() if p.is_dir() and p.name not in ("LR", "HR"))
    scores: dict[str, list[tuple[float, ...]]] = {name: [] for name in ("bicubic", "DFOSD", *others)}
    rows: list[list[Tensor]] = []
    with host.lora(lora, settings.strength):
        for name in names:
            x_lq, x_hr = read(args.pairs / "LR" / name), read(args.pairs / "HR" / name)
            size = (x_hr.shape[-2], x_hr.shape[-1])
            outputs = {
                "bicubic": round_to_8_bit(images.resize(x_lq, size)),
                "DFOSD": round_to_8_bit(images.to_bchw(upscale_attached(images.to_bhwc(x_lq), host, lora, settings))),
            } | {other: read(args.pairs / other / name) for other in others}
            for method, image in outputs.items():
                with torch.inference_mode():
                    scores[method].append((psnr_y(image, x_hr), ssim_y(image, x_hr), float(dists(image, x_hr))))
            rows.append([x_lq, outputs["bicubic"], outputs["DFOSD"], x_hr])
            print(
                f"{name}: " + ", ".join(f"{m} {scores[m][-1][0]:.2f} dB {scores[m][-1][2]:.4f}" for m in scores),
                file=sys.stderr,
            )
    if args.sheet:
        contact_sheet(rows, ("LR (nearest)", "bicubic", "DFOSD", "HR"), args.sheet)
    return {m: dict(zip(METRICS, np.mean(values, axis=0).tolist(), strict=True)) for m, values in scores.items()}


def contact_sheet(rows: list[list[Tensor]], titles: tuple[str, ...], path: Path) -> None:
    """Draw evenly chosen rows of images (1, 3, H, W), each column under its title, as central crops of CELL_PX."""
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, min(SHEET_ROWS, len(rows))).round().astype(int)]
    sheet = Image.new("RGB", (len(titles) * (CELL_PX + 4), 20 + len(chosen) * (CELL_PX + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * (CELL_PX + 4) + 4, 4), title, fill="black")
    for line, row in enumerate(chosen):
        height, width = row[-1].shape[-2:]
        for column, image in enumerate(row):
            pixels = (images.to_bhwc(image)[0] * 255).round().byte().numpy()
            cell = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            left, top = max(0, (width - CELL_PX) // 2), max(0, (height - CELL_PX) // 2)
            cell = cell.crop((left, top, left + min(CELL_PX, width), top + min(CELL_PX, height)))
            sheet.paste(cell, (column * (CELL_PX + 4), 20 + line * (CELL_PX + 4)))
    sheet.save(path)


def table(result: dict[str, dict[str, float]]) -> str:
    """The result as a Markdown table."""
    formats: tuple[Callable[[float], str], ...] = (
        lambda v: f"{v:.2f}",
        lambda v: f"{v:.4f}",
        lambda v: f"{v:.4f}",
    )
    lines = ["| method | " + " | ".join(METRICS) + " |", "|---|" + "---|" * len(METRICS)]
    for method, values in result.items():
        lines.append(f"| {method} | " + " | ".join(f(values[m]) for f, m in zip(formats, METRICS, strict=True)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Parse the command line, evaluate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--vgg", type=Path, required=True, help="VGG16 convolutions, safetensors")
    parser.add_argument("--dists", type=Path, required=True, help="alpha and beta of DISTS, safetensors")
    parser.add_argument("--base", type=Path, help="base model (default: the embedded one)")
    parser.add_argument("--lora", type=Path, help="LoRA (default: the embedded one)")
    parser.add_argument("--color-fix", help="instead of the default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the fast one, as `dfosd upscale`")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (PNG)")
    parser.add_argument("--json", type=Path, help="write the means")
    args = parser.parse_args()
    args.dtype = getattr(torch, args.dtype) if args.dtype else fast_dtype("cpu")
    try:
        result = evaluate(args)
    except DfosdError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
