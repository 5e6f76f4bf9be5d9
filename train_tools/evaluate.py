"""Judge a LoRA on pairs of photographs: PSNR-Y, SSIM-Y and DISTS beside bicubic, a table and a contact sheet.

    python -m train_tools.evaluate PAIRS [--vgg vgg16.safetensors] [--lora lora.safetensors] [--sheet sheet.png]

PAIRS holds `LR/` and `HR/` with the same file names; each further folder beside them (a peer's output) gets a row too.
Everything goes through `pipeline.upscale` with the default settings, rounded to 8 bit as a saved file would be.
DISTS needs VGG16's convolutions, which are not part of the project; without --vgg it is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from dfosd_core.attach import attached
from dfosd_core.errors import DfosdError
from dfosd_core.models import load_models
from dfosd_core.pipeline import UpscaleSettings
from dfosd_core.settings import ModelChoice
from dfosd_core.training.dists import Dists

from .scoring.pictures import contact_sheet, read_image, save_picture
from .scoring.validation import FORMATS, Method, Scores, bicubic, find_pairs, restored_by, score_pairs


def evaluate(args: argparse.Namespace) -> dict[str, Scores]:
    """Return {method: {metric: mean}} and draw the sheet."""
    names = find_pairs(args.pairs)
    dists = Dists.from_files(args.vgg, args.dists) if args.vgg else None
    host, lora = load_models(ModelChoice(base=args.base, lora=args.lora, dtype=args.dtype), torch.device("cpu"))
    settings = UpscaleSettings(color_fix=args.color_fix or UpscaleSettings().color_fix)
    with attached(host, lora, settings) as host:
        methods: dict[str, Method] = {"bicubic": bicubic, "DFOSD": restored_by(host, lora, settings)}
        others = sorted(p for p in args.pairs.iterdir() if p.is_dir() and p.name not in ("LR", "HR"))
        methods |= {other.name: _read_from(other) for other in others}
        means, rows = score_pairs(args.pairs, names, methods, dists, _report)
    if args.sheet:
        save_picture(contact_sheet(rows, ("LR (nearest)", *methods, "HR")), args.sheet)
    return means


def _read_from(folder: Path) -> Method:
    return lambda pair: read_image(folder / pair.name)


def _report(name: str, scores: Mapping[str, Scores]) -> None:
    one = (", ".join(f"{metric} {FORMATS[metric](v)}" for metric, v in found.items()) for found in scores.values())
    print(f"{name}: " + "; ".join(f"{m} {text}" for m, text in zip(scores, one, strict=True)), file=sys.stderr)


def table(result: Mapping[str, Scores]) -> str:
    """The result as a Markdown table."""
    metrics = [metric for metric in FORMATS if all(metric in values for values in result.values())]
    lines = ["| method | " + " | ".join(metrics) + " |", "|---|" + "---|" * len(metrics)]
    for method, values in result.items():
        lines.append(f"| {method} | " + " | ".join(FORMATS[metric](values[metric]) for metric in metrics) + " |")
    return "\n".join(lines)


def main() -> int:
    """Parse the command line, evaluate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--vgg", type=Path, help="VGG16 convolutions for DISTS")
    parser.add_argument("--dists", type=Path, help="alpha and beta of DISTS, safetensors (default: those that ship)")
    parser.add_argument("--base", help="base model (default: the embedded one)")
    parser.add_argument("--lora", help="LoRA, also of another method (default: the embedded one)")
    parser.add_argument("--color-fix", help="instead of the default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the fast one, as `dfosd upscale`")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (PNG)")
    parser.add_argument("--json", type=Path, help="write the means")
    args = parser.parse_args()
    if args.base is not None and args.lora is None:
        parser.error("--base needs --lora: a LoRA trained on it")
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
