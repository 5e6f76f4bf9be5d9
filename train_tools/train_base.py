"""Remake the embedded small base: `vae` first, then `prior` (the diffusion UNet) on its latents.

    python -m train_tools.train_base vae --photos PHOTOS --held HELD --out RUN --vgg VGG16 --dists DISTS
    python -m train_tools.train_base prior --photos PHOTOS --out RUN

With --vae FOLDER the autoencoder goes on from one that is there, such as the embedded base's, instead of a new one.
Each stage logs to RUN/<stage>.log, saves RUN/<stage>.pt every few minutes and goes on from there when it is started
again, with other crops, and ends by writing RUN/small_base/{vae,unet} as diffusers folders. Beside other work, two
processes of one thread each are faster than one of two threads, and each takes --batch crops a step:

    OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 -m train_tools.train_base vae ...
"""

from __future__ import annotations

if not __package__:
    import run_as_module

    run_as_module.start(__file__)

import argparse
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from dfosd_core import images
from dfosd_core.files import write_whole
from dfosd_core.schedule import add_noise
from dfosd_core.training.dists import Dists

from .data.photos import PhotoCrops
from .loop.ema import Ema
from .loop.learner import lr_factor
from .scoring.metrics import psnr
from .small_base import (
    CONTEXT_DIM,
    LATENT_CHANNELS,
    PROMPT_TOKENS,
    channels_last,
    load_vae,
    make_unet,
    make_vae,
    save_part,
)

SAVE_EVERY_S = 180
WARMUP_STEPS = 100
AVERAGED = 0.999
"""Decay of the moving average of the parameters."""
LATENT_NOISE = 0.15
"""Most noise on a latent in the autoencoder's training, as a part of the latents' standard deviation."""


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """L1 of horizontal and vertical differences."""
    d = a - b
    return d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()


def chroma_l1(a: Tensor, b: Tensor) -> Tensor:
    """L1 of the opponent colours R-G and B-(R+G)/2: without it a small autoencoder turns grey first."""
    d = a - b
    red, green, blue = d.unbind(1)
    return (red - green).abs().mean() + (blue - (red + green) / 2).abs().mean()


def average_gradients(module: nn.Module) -> None:
    """Their mean over all processes; nothing to do for one alone."""
    if not distributed.is_initialized():
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def fit(
    stage: str, module: nn.Module, loss: Callable[[int], Tensor], report: Callable[[], str], args: argparse.Namespace
) -> Ema:
    """Minimise `loss(step)` over `module` with AdamW, resuming from and saving to `args.out`/`stage`.pt.

    Return the parameters' averages, which are what to keep. The first process alone logs and saves.
    """
    ema = Ema(list(module.parameters()), AVERAGED)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=args.lr, betas=(0.9, 0.99))
    checkpoint = args.out / f"{stage}.pt"
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load(state["ema"])
        start = int(state["step"])
    log = (args.out / f"{stage}.log").open("a", buffering=1)
    saved, began = time.monotonic(), time.monotonic()
    for step in range(start, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * lr_factor(step, 0, steps=args.steps, warmup_steps=WARMUP_STEPS, schedule="cosine")
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        average_gradients(module)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        ema.update()
        if args.rank > 0:
            continue
        last = step == args.steps - 1
        if step % 50 == 0 or last:
            per_step = (time.monotonic() - began) / max(1, step - start)
            extra = report() if step % 500 == 0 or last else ""
            log.write(f"{step} loss {value.item():.5f} {per_step:.3f} s/step {extra}\n")
        if time.monotonic() - saved > SAVE_EVERY_S or last:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"ema": ema.state(), "step": step + 1}
            with write_whole(checkpoint) as file:
                torch.save(state, file)
            saved = time.monotonic()
    return ema


def train_vae(args: argparse.Namespace) -> None:
    """L1 + gradient L1 + chroma L1 + KL, and DISTS in the last part; half the crops are blurred as x_lr will be.

    Every fourth step has one flat picture, black and white among them. The latents get noise: what the UNet will make
    is never an exact latent, and a decoder that is used to noise should draw no lattice from it.
    """
    vae: Any = channels_last(make_vae() if args.vae is None else load_vae(args.vae))
    if args.vae is None:
        with torch.no_grad():  # a small posterior variance from the start: an untrained one drowns the latent
            vae.quant_conv.bias[LATENT_CHANNELS:] = -6.0
            vae.quant_conv.weight[LATENT_CHANNELS:] *= 0.1
    crops, held = PhotoCrops(args.photos, args.crop, args.seed), PhotoCrops(args.held, 256, 0)
    torch.manual_seed(args.seed)
    dists = Dists.from_files(args.vgg, args.dists, dtype=torch.bfloat16)
    probe = held.batch(16)
    probe_lr = images.resize(images.resize(probe, (64, 64)), (256, 256)).clamp(0, 1)

    def reconstruct(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            y = vae.decode(vae.encode(images.to_signed(x)).latent_dist.mode()).sample
        return images.to_unit(y.float()).clamp(0, 1)

    def report() -> str:
        return f"HR {psnr(reconstruct(probe), probe):.2f} dB, LR-up {psnr(reconstruct(probe_lr), probe_lr):.2f} dB"

    def loss(step: int) -> Tensor:
        x = crops.batch(args.batch)
        half = args.batch // 2
        small = images.resize(x[:half], (args.crop // 4, args.crop // 4))
        x = torch.cat((images.resize(small, (args.crop, args.crop)).clamp(0, 1), x[half:]))
        if step % 4 == 0:
            x[0] = torch.rand(3, 1, 1) if step % 8 else float(step % 16 == 0)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(images.to_signed(x)).latent_dist
            z = posterior.sample()
            z = z + torch.randn_like(z) * (z.detach().std() * LATENT_NOISE) * torch.rand(len(z), 1, 1, 1)
            y = images.to_unit(vae.decode(z).sample.float())
            kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
            value = F.l1_loss(y, x) + gradient_l1(y, x) + 0.5 * chroma_l1(y, x) + 2e-6 * kl
            if step >= args.steps * args.dists_from and step % 2 == 0:
                value = value + 0.1 * dists(y[half:], x[half:])
        return value

    with fit("vae", vae, loss, report, args).applied(), torch.no_grad():
        latents = torch.cat([vae.encode(images.to_signed(crops.batch(16))).latent_dist.mode() for _ in range(16)])
        vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
        if args.rank == 0:
            save_part(vae, args.out / "small_base" / "vae")


def train_prior(args: argparse.Namespace) -> None:
    """The diffusion prior: eps-prediction (MSE) at uniform timesteps of SD's schedule on the autoencoder's latents."""
    vae: Any = channels_last(load_vae(args.out / "small_base" / "vae").requires_grad_(False))
    scaling_factor = float(vae.config["scaling_factor"])
    unet = channels_last(make_unet())
    prompt = nn.Parameter(torch.randn(1, PROMPT_TOKENS, CONTEXT_DIM) * 0.02)
    unet.register_parameter("prompt", prompt)  # trained along, and handed on to the LoRA's start
    crops = PhotoCrops(args.photos, args.crop, args.seed)
    generator = torch.Generator().manual_seed(args.seed)

    def loss(_step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                z = vae.encode(images.to_signed(crops.batch(args.batch))).latent_dist.mode().float() * scaling_factor
            t = torch.randint(0, 1000, (len(z),), generator=generator)
            eps = torch.randn(z.shape, generator=generator)
            predicted = unet(add_noise(z, eps, t), t, prompt.expand(len(z), -1, -1)).sample
        return F.mse_loss(predicted.float(), eps)

    with fit("prior", unet, loss, lambda: "", args).applied():
        if args.rank == 0:
            with write_whole(args.out / "prompt.pt") as file:
                torch.save(prompt.detach(), file)
            del unet.prompt
            save_part(unet, args.out / "small_base" / "unet")


def main() -> None:
    """Parse the command line and train one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("vae", "prior"))
    parser.add_argument("--photos", type=Path, required=True, help="folder of training photographs")
    parser.add_argument("--held", type=Path, help="folder of held-out photographs (vae)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vae", type=Path, help="folder of an autoencoder to go on from, instead of a new one (vae)")
    parser.add_argument("--vgg", type=Path, help="VGG16 convolutions, safetensors (vae)")
    parser.add_argument("--dists", type=Path, help="alpha and beta of DISTS, safetensors (vae)")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dists-from", type=float, default=0.6, help="fraction of the steps after which DISTS joins")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.rank = 0
    if "RANK" in os.environ:  # torchrun
        distributed.init_process_group("gloo", timeout=timedelta(hours=3))
        args.rank = distributed.get_rank()
    torch.manual_seed(args.seed)  # every process starts from the same networks
    args.seed = (
        hash((args.seed, args.rank, time.time_ns())) % 2**32
    )  # and sees crops of its own, others after a restart
    {"vae": train_vae, "prior": train_prior}[args.stage](args)
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
