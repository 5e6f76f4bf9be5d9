"""Other methods' LoRAs at Stable Diffusion 2.1-base's full size: our image against that of the method's own formula.

    python -m benchmarks.import_full_size --format osediff    # 64x64 -> 256x256: 9 GB of memory, 10 GB of disk, minutes

The file has the method's exact layout and random weights, as has the base with its text encoder. The method's formula
is computed by diffusers, peft and transformers (`tests/support/peers.py`), ours by `OwnHost` in float32. Each step has
a process of its own, so one set of networks is in memory at a time, and a peak is the step's own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from dfosd_core.lora.open import open_lora
from dfosd_core.models import load_models
from dfosd_core.pipeline import UpscaleSettings, upscale
from dfosd_core.settings import ModelChoice
from dfosd_core.tensor_files import read_safetensors
from dfosd_core.training.base import read_training_base

from .random_base import write_random_sd21
from .speed import peak_mib

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-4
"""In the image of [0, 1], float32: merging is another order of the same sums."""
TENSORS = {
    "osediff": {"state_dict_unet": 518, "state_dict_vae": 64},
    "pisa_sr": {"state_dict_unet": 1032},
    "hypir": {"": 514},
    "omgsr": {"unet_lora_adapter": 2 * 194, "vae_encoder_lora_adapter": 2 * 31},
}
"""Format -> entry of the file ("": the file itself) -> how many tensors the published one holds there."""
LAYERS = {
    "osediff": {"unet_lora_encoder_modules": 94, "unet_lora_decoder_modules": 148, "unet_lora_others_modules": 16},
    "pisa_sr": {f"unet_lora_{part}_modules_pix": n for part, n in (("encoder", 94), ("decoder", 148), ("others", 16))},
}
"""Format -> list of layers in the file -> its length."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What all steps share."""

    format: str
    size: int
    place: Path
    """A folder for the base, the file and the images."""

    @property
    def base(self) -> Path:
        return self.place / "base"

    def image(self) -> Tensor:
        """(1, size, size, 3) in [0, 1]."""
        return torch.rand(1, self.size, self.size, 3, generator=torch.Generator().manual_seed(2))


class Ours(NamedTuple):
    """What our step measured. Memory is the process's largest, of which `rest_mib` is Python and torch."""

    file: str
    file_mib: float
    rest_mib: float
    open_seconds: float
    open_mib: float
    ready_seconds: float
    ready_mib: float
    image_seconds: float
    image_mib: float
    effect: float
    """Mean difference that the LoRA makes to the image."""


def main() -> None:
    """Parse the command line, run the steps, print what they found; exit 1 beyond the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=TENSORS, required=True)
    parser.add_argument("--size", type=int, default=64, help="edge of the square input in pixels")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfosd-") as folder:
        case = Case(**vars(args), place=Path(folder))
        alone(write_base, case)
        theirs_seconds, theirs_mib = alone(theirs, case)
        found: Ours = alone(ours, case)
        ours_image, theirs_image = (torch.load(case.place / f"{name}.pt") for name in ("ours", "theirs"))
    difference = (ours_image - theirs_image).abs().max().item()
    inside = ((ours_image > 0) & (ours_image < 1)).float().mean().item()
    print(
        f"{args.format}: {found.file}, {found.file_mib:.0f} MiB, {sum(TENSORS[args.format].values())} tensors; "
        f"{args.size}x{args.size} -> {args.size * 4}x{args.size * 4}, float32, {torch.get_num_threads()} threads\n"
        f"  largest difference {difference:.2e} of [0, 1] (expected {TOLERANCE:.0e} at most); the LoRA changes the "
        f"image by {found.effect:.3f} on average; {inside:.0%} not clamped\n"
        f"  open:  {found.open_seconds:.1f} s, peak {found.open_mib:.0f} MiB above {found.rest_mib:.0f} "
        f"({found.open_mib / found.file_mib:.2f} times the file)\n"
        f"  ready: {found.ready_seconds:.1f} s with base and prompt, peak {found.ready_mib:.0f} MiB in all\n"
        f"  image: {found.image_seconds:.1f} s, peak {found.image_mib:.0f} MiB in all\n"
        f"  the method's formula with diffusers and peft: {theirs_seconds:.1f} s, peak {theirs_mib:.0f} MiB in all"
    )
    sys.exit(0 if difference <= TOLERANCE else 1)


def alone(step: Any, case: Case) -> Any:
    """The step in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(step, case).result()


def write_base(case: Case) -> None:
    """A diffusers folder with its text encoder, 2.6 GB."""
    from transformers import CLIPTextModel  # one step's library, slow to import

    write_random_sd21(case.base)
    torch.manual_seed(3)
    tensors = {key: value.half() for key, value in CLIPTextModel(text_config()).state_dict().items()}
    (case.base / "text_encoder").mkdir()
    safetensors.torch.save_file(tensors, case.base / "text_encoder" / "model.fp16.safetensors")
    (case.base / "scheduler").mkdir()
    (case.base / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "epsilon"}))


def text_config() -> Any:
    """SD 2.1's text encoder."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23, hidden_act="gelu"
    )


def theirs(case: Case) -> tuple[float, float]:
    """Write the file and the image of the method's formula; seconds of the image, MiB of the whole step."""
    peers = _peers()
    prompt_embeds = their_prompt(case, peers.TOKENS)
    peer = peers.PEERS[case.format](peers.DiffusersHost(*read_training_base(case.base)))
    for entry, count in TENSORS[case.format].items():
        table = peer.entries[entry] if entry else peer.entries
        assert len(table) == count, f"{len(table)} tensors in {entry or 'the file'}, expected {count}"
    for entry, count in LAYERS.get(case.format, {}).items():
        assert len(peer.entries[entry]) == count, f"{len(peer.entries[entry])} layers in {entry}, expected {count}"
    (case.place / "lora").mkdir()
    peer.write(case.place / "lora")
    began = time.perf_counter()
    torch.save(peers.unit_image(peer, case.image(), prompt_embeds), case.place / "theirs.pt")
    return time.perf_counter() - began, peak_mib()


def their_prompt(case: Case, tokens: list[int]) -> Tensor:
    """(1, 77, 1024), by transformers."""
    from transformers import CLIPTextModel

    encoder = CLIPTextModel(text_config()).eval()
    weights = read_safetensors(case.base / "text_encoder" / "model.fp16.safetensors").tensors
    encoder.load_state_dict({key: value.float() for key, value in weights.items()})
    with torch.no_grad():
        return encoder(torch.tensor([tokens])).last_hidden_state


def ours(case: Case) -> Ours:
    """Open the file, load it with the base, upscale with and without it."""
    path = next((case.place / "lora").iterdir())
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    began = time.perf_counter()
    open_lora(path)
    open_seconds = time.perf_counter() - began
    rest = _forget_peak()
    open_lora(path)  # again, for the memory: the first time also loads code
    open_mib = peak_mib() - rest
    began = time.perf_counter()
    host, whole = load_models(ModelChoice(base=str(case.base), lora=str(path), dtype="float32"), torch.device("cpu"))
    ready_seconds, ready_mib = time.perf_counter() - began, peak_mib()
    began = time.perf_counter()
    image = upscale(case.image(), host, whole, UpscaleSettings(color_fix="none"))
    image_seconds, image_mib = time.perf_counter() - began, peak_mib()
    without = upscale(case.image(), host, whole, UpscaleSettings(color_fix="none", strength=0.0))
    torch.save(image, case.place / "ours.pt")
    return Ours(
        file=path.name,
        file_mib=sum(file.stat().st_size for file in files) / 2**20,
        rest_mib=rest,
        open_seconds=open_seconds,
        open_mib=open_mib,
        ready_seconds=ready_seconds,
        ready_mib=ready_mib,
        image_seconds=image_seconds,
        image_mib=image_mib,
        effect=(image - without).abs().mean().item(),
    )


def _forget_peak() -> float:
    """Forget the peak so far; return the memory now, MiB."""
    if (lever := Path("/proc/self/clear_refs")).exists():
        lever.write_text("5")  # Linux; elsewhere the peak contains what came before
    return peak_mib()


def _peers() -> Any:
    """The tests' peers: independent of our importers."""
    sys.path.append(str(ROOT / "tests"))
    return importlib.import_module("support.peers")


if __name__ == "__main__":
    main()
