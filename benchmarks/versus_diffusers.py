"""One picture on Stable Diffusion 2.1's layout with random weights: our networks against plain diffusers'.

    python -m benchmarks.versus_diffusers --dtype bfloat16    # 128x128 -> 512x512, 10 GB of memory, minutes
    python -m benchmarks.versus_diffusers --dtype float32 --photos examples/photos/train

Both run what the method needs of its networks: encode the enlarged picture, one UNet call, decode. diffusers has the
LoRA merged, channels-last weights and the same number format. The two take turns, so that whatever else slows the
machine slows both; the ratio is the median of the pairs'. There are two rounds, since our programs keep freed memory
(`dfosd_core/allocator.py`) and a program on diffusers does not: first without for both, then with it for both.
`as_used` is ours of the second round against diffusers of the first. The largest difference of the two images is
printed, over --photos where given, and with bfloat16 both images' PSNR against ours in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dfosd_core.allocator import keep_freed_memory
from dfosd_core.attach import attached
from dfosd_core.hosts.own import OwnHost, load_base
from dfosd_core.image_files import is_image_name
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.tensors import to_tensor
from dfosd_core.images import enlarge, to_bchw, to_bhwc, to_signed, to_unit
from dfosd_core.lora.file import DfosdLora, LoraPair
from dfosd_core.lora.merge import merged
from dfosd_core.lora.metadata import LoraMetadata
from dfosd_core.lora.names import UNET_PREFIX, VAE_PREFIX, kohya_name
from dfosd_core.one_step import predict_z_sr
from dfosd_core.pipeline import UpscaleSettings, upscale_attached
from dfosd_core.training.base import read_training_base
from train_tools.scoring.metrics import psnr

from .random_base import write_random_sd21

RANK = 16
EDGE = 128
"""Of the input; the output is 4 times that."""


def random_lora(host: OwnHost) -> DfosdLora:
    """Rank 16 on the UNet's attention layers, of a strength that can be seen."""
    rng = torch.Generator().manual_seed(2)
    pairs: dict[str, LoraPair] = {}
    for name, layer in host.unet.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".attn" in name:
            down = torch.randn(RANK, layer.in_features, generator=rng) / layer.in_features**0.5
            up = torch.randn(layer.out_features, RANK, generator=rng) * 0.2
            pairs[kohya_name(name)] = LoraPair(down=down, up=up, alpha=float(RANK))
    metadata = LoraMetadata(base_layout=host.layout, timestep=399, rank=RANK, lora_alpha=float(RANK))
    return DfosdLora(pairs=pairs, prompt_embeds=torch.randn(1, 77, 1024, generator=rng), metadata=metadata)


@contextmanager
def diffusers_run(base: Path, lora: DfosdLora, dtype: torch.dtype) -> Iterator[Callable[[Tensor], Tensor]]:
    """A function (1, H, W, 3) -> (1, 4 H, 4 W, 3), both in [0, 1], by diffusers alone, inside the `with` block."""
    networks = read_training_base(base, torch.device("cpu"), dtype)
    unet, vae = (
        cast("Any", net).to(dtype, memory_format=torch.channels_last).eval() for net in (networks.unet, networks.vae)
    )
    scale, prompt, t = vae.config.scaling_factor, lora.prompt_embeds.to(dtype), lora.metadata.timestep

    @torch.inference_mode()
    def run(image: Tensor) -> Tensor:
        x = enlarge(to_bchw(image), (4 * image.shape[1], 4 * image.shape[2]))
        x = to_signed(x).to(dtype, memory_format=torch.channels_last)
        z = vae.encode(x).latent_dist.mode().float() * scale
        eps = unet(z.to(dtype), t, encoder_hidden_states=prompt).sample
        z = predict_z_sr(z, eps.float(), t)
        y = vae.decode((z / scale).to(dtype)).sample
        return to_bhwc(to_unit(y.float())).clamp(0.0, 1.0)

    with merged({UNET_PREFIX: networks.unet, VAE_PREFIX: networks.vae}, lora, 1.0):
        yield run


def photos(folder: Path | None) -> list[Tensor]:
    """Three pictures in colour of the folder, or one of noise, as (1, EDGE, EDGE, 3)."""
    if folder is None:
        return [torch.rand(1, EDGE, EDGE, 3, generator=torch.Generator().manual_seed(0))]
    files = sorted(path for path in folder.iterdir() if is_image_name(path))
    pictures = (to_bchw(to_tensor(read_image(file))) for file in files)
    # Grey ones come out grey from our program whatever the networks say, so they cannot be compared with diffusers'.
    colored = [picture for picture in pictures if (picture != picture[:, :1]).any()][:3]
    if len(colored) < 3:
        raise SystemExit(f"Expected at least three pictures in colour in '{folder}', found {len(colored)}.")
    return [to_bhwc(enlarge(picture, (EDGE, EDGE))) for picture in colored]


def seconds(run: Callable[[Tensor], Tensor], image: Tensor) -> float:
    began = time.perf_counter()
    run(image)
    return time.perf_counter() - began


def measure(
    ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], image: Tensor, pairs: int
) -> dict[str, float]:
    """Medians of `pairs` turns of each, after one that is not counted."""
    times = [(seconds(ours, image), seconds(theirs, image)) for _ in range(pairs + 1)][1:]
    ours_s, theirs_s = (round(statistics.median(each), 2) for each in zip(*times, strict=True))
    return {"ours_s": ours_s, "diffusers_s": theirs_s, "ratio": round(statistics.median(a / b for a, b in times), 3)}


def main() -> None:
    """Parse the command line, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--pairs", type=int, default=5, help="timed turns of each, after one that is not counted")
    parser.add_argument("--photos", type=Path, help="a folder of pictures, three are taken; default: one of noise")
    args = parser.parse_args()
    dtype, settings = getattr(torch, args.dtype), UpscaleSettings(color_fix="none")
    images, found = photos(args.photos), dict[str, Any](dtype=args.dtype, threads=torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        base = write_random_sd21(Path(folder) / "base")
        host = load_base(base, dtype)
        lora = random_lora(host)
        with diffusers_run(base, lora, dtype) as theirs, attached(host, lora, settings) as running:

            def ours(image: Tensor) -> Tensor:
                return upscale_attached(image, running, lora, settings)

            results = {"ours": [ours(image) for image in images], "diffusers": [theirs(image) for image in images]}
            found["largest_difference"] = max(
                float((a - b).abs().max()) for a, b in zip(*results.values(), strict=True)
            )
            rounds = {"plain": measure(ours, theirs, images[0], args.pairs)}
            if keep_freed_memory():
                rounds["kept"] = measure(ours, theirs, images[0], args.pairs)
        if dtype != torch.float32:
            with attached(load_base(base), lora, settings) as wide:
                exact = [upscale_attached(image, wide, lora, settings) for image in images]
            for name, rounded in results.items():
                found[f"{name}_psnr_against_float32"] = round(min(map(psnr, rounded, exact)), 1)
    found |= rounds
    found["as_used"] = round(list(rounds.values())[-1]["ours_s"] / rounds["plain"]["diffusers_s"], 3)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
