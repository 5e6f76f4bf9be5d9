"""Judge super-resolution on a test set as the field does: a table, and with --out a report that can be looked through.

    python -m train_tools.evaluate SET [--lora lora.safetensors] [--vgg vgg16.safetensors] [--out RESULTS]
    python -m train_tools.evaluate SET --benchmark RealSR-crops --sr OSEDiff=results/osediff/ --out RESULTS

SET holds `LR/` and `HR/` with the same file names (or StableSR's `test_LR/` and `test_HR/`), or `LR/` alone; further
folders beside them are other methods' results and get a row each, and so does bicubic. The model runs through
`pipeline.upscale` with the default settings, rounded to 8 bit as a saved file would be; with --sr no model runs.

PSNR-Y and SSIM-Y are always there, DISTS with --vgg (VGG16's convolutions, not part of the project). LPIPS, FID, NIQE,
MUSIQ, MANIQA and CLIPIQA come from pyiqa where it is installed and has their weights.

--out keeps each score and image as it comes: the same command goes on where it was stopped, and another method's
results join those that are there. Scores of other weights, settings or another protocol are refused.
"""

from __future__ import annotations

if not __package__:
    import run_as_module

    run_as_module.start(__file__)

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.files import make_folder, what_failed, write_text
from dfosd_core.models import pick_device
from dfosd_core.pipeline import UpscaleSettings
from dfosd_core.settings import ModelChoice

from .scoring.evaluation import Meter, run_of, score_all, sheet_rows
from .scoring.metrics import FORMATS, Scores
from .scoring.pair_files import SIDES
from .scoring.pictures import contact_sheet, save_picture
from .scoring.report import html_report
from .scoring.score_file import ScoreFile
from .scoring.sets import BENCHMARKS, IGNORED, TestSet, open_set
from .scoring.sources import FolderSource, KeptSource, Model, Source, folders_beside
from .scoring.tables import as_csv, markdown, means, quoted_rows
from .scoring.validation import bicubic

SETTINGS = ("color_fix", "strength", "pixel_strength")
"""What of UpscaleSettings may be set here; the others do not change how good a result is."""
NO_METHODS = {name for pair in SIDES for name in pair} | set(IGNORED)
"""Folders of a set that hold no results."""


def evaluate(args: argparse.Namespace) -> tuple[TestSet, dict[str, Scores]]:
    """Score the set; write the sheet and OUT's files. Returns the set and {method: {metric: mean}}."""
    test_set = open_set(args.set, args.benchmark)
    with ExitStack() as stack:
        out = args.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_folder(out, ConfigError)
        meter = Meter(
            args.vgg,
            args.dists,
            pick_device(args.device),
            has_references=bool(test_set.hr),
            may_download=args.download,
            say=_say,
        )
        if not meter.by:
            raise ConfigError("There is nothing to measure: the set has no references, and pyiqa none of its metrics.")
        sources = _sources(args, test_set, out, stack)
        run = run_of(test_set, meter)
        file = ScoreFile(out / "scores.jsonl", run)
        score_all(test_set, sources, meter, file, _report)
        result = means(file, list(test_set.lr))
        if args.sheet:
            titles = ("LR (nearest)", *sources, *(("HR",) if test_set.hr else ()))
            save_picture(contact_sheet(sheet_rows(test_set, sources, file), titles), args.sheet)
        if args.out:
            _write_results(test_set, file, result, run)
    return test_set, result


def _sources(args: argparse.Namespace, test_set: TestSet, out: Path, stack: ExitStack) -> dict[str, Source]:
    names = list(test_set.lr)
    images = out / "images"
    sources: dict[str, Source] = {"bicubic": KeptSource(bicubic, images / "bicubic", {})}
    if not args.sr:
        files = {name: getattr(args, name) for name in ("base", "lora", "decoder", "device", "dtype")}
        settings = UpscaleSettings.from_values({name: getattr(args, name) for name in SETTINGS})
        model = Model(ModelChoice(**files), settings, stack)
        sources[args.name] = KeptSource(model, images / args.name, model.settings())
    beside = [(each.name, each) for each in folders_beside(test_set.folder, NO_METHODS) if each != out]
    for label, folder in [*beside, *map(_named_folder, args.sr)]:
        source = FolderSource(folder, names)
        other = sources.setdefault(label, source)
        if other.folder.resolve() != folder.resolve():
            raise ConfigError(f"'{folder}' and '{other.folder}' have one name. Give another: --sr NAME={folder}.")
    return sources


def _named_folder(text: str) -> tuple[str, Path]:
    """`FOLDER` or `NAME=FOLDER`; a folder's own path may hold the sign, too."""
    name, sign, folder = text.partition("=")
    is_named = sign and name and not Path(text).is_dir()
    return (name, Path(folder)) if is_named else (Path(text).resolve().name, Path(text))


def _write_results(test_set: TestSet, file: ScoreFile, result: Mapping[str, Scores], run: Mapping[str, object]) -> None:
    """Beside the scores: CSV by image, means as Markdown, the report."""
    folder, images, quoted = file.path.parent, len(test_set.lr), quoted_rows(test_set)
    write_text(folder / "scores.csv", as_csv(file, test_set))
    write_text(folder / "scores.md", f"{test_set.caption}:\n\n{markdown(result, images, quoted)}\n")
    write_text(folder / "report.html", html_report(test_set, file, result, quoted, run))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _report(name: str, scores: Mapping[str, Scores]) -> None:
    one = (", ".join(f"{metric} {FORMATS[metric](v)}" for metric, v in found.items()) for found in scores.values())
    _say(f"{name}: " + "; ".join(f"{m} {text}" for m, text in zip(scores, one, strict=True)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--benchmark", choices=tuple(BENCHMARKS), help="which published set this is, and its protocol")
    parser.add_argument("--sr", nargs="+", default=[], metavar="[NAME=]FOLDER", help="score these; run no model")
    parser.add_argument("--out", type=Path, help="folder for scores, images, tables and report.html; resumes")
    parser.add_argument("--vgg", type=Path, help="VGG16 convolutions for DISTS")
    parser.add_argument("--dists", type=Path, help="alpha and beta of DISTS, safetensors (default: those that ship)")
    parser.add_argument("--download", action="store_true", help="let pyiqa download weights that are missing")
    parser.add_argument("--base", help="base model (default: the embedded one)")
    parser.add_argument("--lora", help="LoRA, also of another method (default: the embedded one)")
    parser.add_argument("--name", default="DFOSD", help="the model's row (default: DFOSD)")
    parser.add_argument("--decoder", help="a light decoder in place of the VAE's own")
    for setting in (each for each in fields(UpscaleSettings) if each.name in SETTINGS):
        parser.add_argument(f"--{setting.name.replace('_', '-')}", help=setting.metadata["help"])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the fast one, as `dfosd upscale`")
    parser.add_argument("--device", help="cuda, cpu, ... (default: a GPU if there is one)")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (PNG)")
    parser.add_argument("--json", type=Path, help="write the means")
    return parser


def main() -> int:
    """Parse the command line, evaluate, print the table."""
    parser = _parser()
    args = parser.parse_args()
    if args.base is not None and args.lora is None and not args.sr:
        parser.error("--base needs --lora: a LoRA trained on it")
    if Path(args.name).name != args.name or args.name in ("", ".."):
        parser.error(f"--name is a name without folders, found '{args.name}'")
    try:
        test_set, result = evaluate(args)
    except DfosdError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"evaluate: {what_failed(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("evaluate: stopped" + ("; the same command goes on" if args.out else ""), file=sys.stderr)
        return 130
    print(f"{test_set.caption}:\n\n{markdown(result, len(test_set.lr))}")
    if args.json:
        write_text(args.json, json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
