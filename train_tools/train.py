"""Train a DFOSD LoRA: the generator against MSE, EA-DISTS and the noise-aware discriminator, a step of each in turn.

    python -m train_tools.train --base RUN/small_base --prompt RUN/prompt.pt --photos PHOTOS --held HELD \\
        --vgg vgg16.safetensors --dists dists.safetensors --out RUN/lora

Logs to OUT/train.log. Every few minutes it saves OUT/state.pt, from which a restart goes on, and exports
OUT/lora.safetensors.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dfosd_core import images
from dfosd_core.hosts.base_files import read_base
from dfosd_core.lora import LoraMetadata, save_lora
from dfosd_core.training.degradation import PRESETS, SCALE, degrade
from dfosd_core.training.dists import Dists
from dfosd_core.training.ea_dists import EaDists
from dfosd_core.training.generator import DfosdGenerator
from dfosd_core.training.lora_layers import trainable_parameters
from dfosd_core.training.losses import LossSettings, discriminator_loss, generator_loss
from dfosd_core.training.nad import Nad

from .metrics import psnr
from .photos import PhotoCrops
from .small_base import channels_last
from .train_base import learning_rate

SAVE_EVERY_S = 180


class Recipe:
    """Both networks, their optimisers and the batches of one run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        rng = torch.Generator().manual_seed(args.seed)
        base = read_base(args.base)
        prompt = torch.load(args.prompt, weights_only=True) if args.prompt else None
        self.layout = base.layout
        self.generator = DfosdGenerator(
            base.vae, base.unet, prompt_embeds=prompt, t=args.t, rank=args.rank, lora_alpha=args.rank, rng=rng
        )
        self.nad = Nad(base.unet, prompt_embeds=prompt, rank=args.rank, lora_alpha=args.rank, rng=rng)
        self.networks = nn.ModuleDict({"generator": self.generator, "nad": self.nad})
        channels_last(self.networks)
        self.optimizers = {
            name: torch.optim.AdamW(trainable_parameters(network), lr=lr, betas=(0.9, 0.99), weight_decay=1e-2)
            for (name, network), lr in zip(self.networks.items(), (args.lr, args.lr_d), strict=True)
        }
        self.ea_dists = EaDists(Dists.from_files(args.vgg, args.dists, dtype=torch.bfloat16))
        self.settings = LossSettings(lambda_1=args.lambda_1, lambda_2=args.lambda_2, t_noise_max=args.t_noise_max)
        self.step = 0

    def batch(self, crops: PhotoCrops, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return x_lr and x_hr (count, 3, h, w) in [-1, 1], each image under one of the presets."""
        image = crops.batch(count)
        presets = [PRESETS[name] for name in self.args.presets.split(",")]
        drawn = rng.integers(len(presets), size=count)
        x_lq = torch.cat([degrade(x[None], presets[i], rng) for x, i in zip(image, drawn, strict=True)])
        x_lr = images.resize(x_lq, (image.shape[-2], image.shape[-1])).clamp(0, 1)
        x_lr, x_hr = (images.to_signed(x).contiguous(memory_format=torch.channels_last) for x in (x_lr, image))
        return x_lr, x_hr

    def train_step(self, x_lr: Tensor, x_hr: Tensor, rng: torch.Generator) -> dict[str, float]:
        """One step of the generator and, past the warm-up, one of the discriminator. Return the losses."""
        perceptual = self.ea_dists if self.step >= self.args.mse_steps else None
        fooling = self.step >= self.args.nad_from
        with torch.autocast("cpu", torch.bfloat16):
            z_sr, x_sr = self.generator(x_lr, rng)
            losses = generator_loss(
                x_sr,
                x_hr,
                z_sr,
                perceptual=perceptual,
                nad=self.nad if fooling else None,
                rng=rng,
                settings=self.settings,
            )
        report = {name: value.item() for name, value in losses._asdict().items()}
        self._update("generator", losses.total)
        if self.step >= self.args.nad_from - self.args.nad_warmup:
            with torch.autocast("cpu", torch.bfloat16):
                z_hr = self.generator.encode(x_hr, rng)
                losses_d = discriminator_loss(self.nad, z_sr, z_hr, rng=rng, settings=self.settings)
            report["discriminator"] = losses_d.total.item()
            self._update("nad", losses_d.total)
        self.step += 1
        return report

    def _update(self, name: str, loss: Tensor) -> None:
        optimizer, peak = self.optimizers[name], self.args.lr if name == "generator" else self.args.lr_d
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.args.steps, peak)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()

    def validate(self, pairs: list[tuple[Tensor, Tensor]]) -> str:
        """PSNR (RGB) and DISTS over held-out pairs, beside those of x_lr, which is bicubic."""
        rows: list[tuple[float, ...]] = []
        for x_lr, x_hr in pairs:
            with torch.no_grad():
                with torch.autocast("cpu", torch.bfloat16):
                    x_sr = self.generator(x_lr)[1]
                sr, lr, hr = (images.to_unit(x).clamp(0, 1) for x in (x_sr, x_lr, x_hr))
                score = self.ea_dists.dists
                rows.append((psnr(sr, hr), float(score(sr, hr)), psnr(lr, hr), float(score(lr, hr))))
        mean = np.mean(rows, axis=0)
        return f"held-out {mean[0]:.2f} dB, DISTS {mean[1]:.4f} (bicubic {mean[2]:.2f} dB, {mean[3]:.4f})"

    def save(self) -> None:
        """Write the state to go on from, and the LoRA so far."""
        out: Path = self.args.out
        trained = {n: p.detach() for n, p in self.networks.named_parameters() if p.requires_grad}
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        torch.save({"trained": trained, "optimizers": optimizers, "step": self.step}, out / "state.partial")
        (out / "state.partial").replace(out / "state.pt")
        save_lora(out / "lora.safetensors", self.generator.export_lora(self.metadata(), torch.float16))

    def resume(self) -> None:
        """Go on from OUT/state.pt where there is one."""
        if not (self.args.out / "state.pt").exists():
            return
        state: dict[str, Any] = torch.load(self.args.out / "state.pt", weights_only=True)
        self.networks.load_state_dict(state["trained"], strict=False)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.step = state["step"]

    def metadata(self) -> LoraMetadata:
        """What the exported file says about itself."""
        paths = ("base", "prompt", "photos", "held", "out", "vgg", "dists")
        config = {k: v for k, v in vars(self.args).items() if k not in paths} | {"trained_steps": self.step}
        return LoraMetadata(
            base_layout=self.layout,
            timestep=self.args.t,
            rank=self.args.rank,
            lora_alpha=float(self.args.rank),
            base_model="DFOSD small base",
            train_config=config,
            extra={"modelspec.title": "DFOSD small x4", "modelspec.license": "Apache-2.0"},
        )


def train(args: argparse.Namespace) -> None:
    """The loop."""
    recipe = Recipe(args)
    recipe.resume()
    log = (args.out / "train.log").open("a", buffering=1)
    held_rng = np.random.default_rng(0)
    held = PhotoCrops(args.held, 192, 0)
    pairs = [recipe.batch(held, 4, held_rng) for _ in range(4)]
    crops = PhotoCrops(args.photos, args.crop, args.seed + recipe.step)
    rng, np_rng = (
        torch.Generator().manual_seed(args.seed + recipe.step),
        np.random.default_rng(args.seed + recipe.step),
    )
    began, saved, first = time.monotonic(), time.monotonic(), recipe.step
    sums: dict[str, list[float]] = {}
    for step in itertools.count(first):
        if step >= args.steps:
            break
        if step % args.validate_every == 0:
            log.write(f"{step} {recipe.validate(pairs)}\n")
        for name, value in recipe.train_step(*recipe.batch(crops, args.batch, np_rng), rng).items():
            sums.setdefault(name, []).append(value)
        if step % 50 == 49:
            means = " ".join(f"{name} {np.mean(values):.4f}" for name, values in sums.items())
            log.write(f"{step + 1} {means} {(time.monotonic() - began) / (step + 1 - first):.3f} s/step\n")
            sums.clear()
        if time.monotonic() - saved > SAVE_EVERY_S:
            recipe.save()
            saved = time.monotonic()
    recipe.save()
    log.write(f"done: {recipe.validate(pairs)}\n")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in (
        ("base", "diffusers folder of the base"),
        ("photos", "folder of training photographs"),
        ("held", "folder of held-out photographs"),
        ("out", "folder for log, state and LoRA"),
        ("vgg", "VGG16 convolutions, safetensors"),
        ("dists", "alpha and beta of DISTS, safetensors"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    parser.add_argument("--prompt", type=Path, help="the prompt embedding to start from")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--mse-steps", type=int, default=1500, help="steps on MSE alone before EA-DISTS joins")
    parser.add_argument("--nad-from", type=int, default=3000, help="the step from which the generator has to fool NAD")
    parser.add_argument("--nad-warmup", type=int, default=500, help="steps that NAD trains before that")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--t", type=int, default=199, help="T_L, the timestep given to the UNet")
    parser.add_argument("--t-noise-max", type=int, default=399, help="largest timestep at which NAD looks")
    parser.add_argument("--presets", default="camera,camera,light", help="degradations, drawn with equal chances")
    parser.add_argument("--lambda-1", type=float, default=5e-4)
    parser.add_argument("--lambda-2", type=float, default=0.05)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--lr-d", type=float, default=5e-4)
    parser.add_argument("--validate-every", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    assert args.crop % SCALE == 0
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    train(args)


if __name__ == "__main__":
    main()
