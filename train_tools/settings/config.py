"""Everything a training run can be told: one dataclass a section, each field with its meaning beside it.

`configs/*.yaml` holds the recipes. How a file and `--set` become a `TrainConfig` lives in `config_file.py`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

from dfosd_core.errors import ConfigError
from dfosd_core.networks.embedded import EMBEDDED
from dfosd_core.schedule import NUM_TIMESTEPS
from dfosd_core.training.degradations import DEGRADATIONS, DegradationName
from dfosd_core.training.direction import WINDOW_PX
from dfosd_core.training.discriminators import DiscriminatorKind
from dfosd_core.training.heads import HeadKind
from dfosd_core.training.losses import PERCEPTUAL_TERMS, PerceptualName

Schedule = Literal["constant", "cosine"]
Precision = Literal["no", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
BaseDtype = Literal["auto", "float32", "bfloat16"]


class Range(NamedTuple):
    """The numbers that a setting takes, least <= number < limit, and what an error calls them."""

    words: str
    least: float
    limit: float = math.inf


Count = Annotated[int, Range("1 or more", 1)]
CountOrZero = Annotated[int, Range("0 or more", 0)]
Positive = Annotated[float, Range("more than 0", math.ulp(0))]
PositiveOrZero = Annotated[float, Range("0 or more", 0)]
Fraction = Annotated[float, Range("0 to below 1", 0, 1)]
Timestep = Annotated[int, Range(f"0 to {NUM_TIMESTEPS - 1}", 0, NUM_TIMESTEPS)]
Seed = Annotated[int, Range("0 to 2^63 - 1", 0, 2**63)]


def require(ok: bool, text: str) -> None:
    """Raise ConfigError(text) unless ok."""
    if not ok:
        raise ConfigError(text)


class Section:
    """A section of the file, NAMEConfig for `name`. Raises ConfigError for a number outside its type's Range."""

    def __post_init__(self) -> None:
        section = type(self).__name__.removesuffix("Config").lower()
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            for words, least, limit in getattr(hint, "__metadata__", ()):
                value = getattr(self, name)
                require(least <= value < limit, f"{section}.{name}: expected {words}, found {value}.")


@dataclass(kw_only=True)
class ModelConfig(Section):
    """The generator: base, LoRA, prompt."""

    base: str = EMBEDDED
    """`embedded`, or the path of an SD 2.1-base: a diffusers folder or a single checkpoint file."""
    init_lora: Path | None = None
    """A LoRA to start from, any of this base that `dfosd upscale` takes, of any rank; none: a fresh one."""
    pixel_lora: Path | None = None
    """A finished LoRA of this base that stays as it is: the run adds a part to it, which strength scales (PiSA-SR). Of
    a LoRA of two parts the first stays and the second is what the run starts from."""
    rank: Count = 16
    """Rank of the generator's LoRA (paper: 16)."""
    lora_alpha: Positive = 16.0
    """Alpha of the generator's LoRA (paper: 16)."""
    timestep: Timestep = 399
    """T_L, the timestep given to the UNet."""
    prompt_tokens: Count = 77
    """Length of the prompt embedding where none is at hand to start from (no text encoder beside the base)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.init_lora is None or self.pixel_lora is None,
            "model.pixel_lora: expected no model.init_lora beside it, found both. Leave one out.",
        )


@dataclass(kw_only=True)
class DataConfig(Section):
    """Photographs, crops, degradation, batches."""

    photos: Path | dict[str, float] = Path("photos")
    """A folder of photographs or a set by `prepare_data`; several: {faces/: 1, nature/: 3}, with each one's weight."""
    crop: int = 512
    """Edge of the square crops in pixels; a multiple of 4."""
    presets: list[DegradationName] = field(default_factory=lambda: ["heavy"])
    """Degradations, drawn with equal chances for each crop (Real-ESRGAN's `heavy`, `light`, or a mild `camera`)."""
    batch_size: Count = 8
    """Crops an optimiser step sees, over all processes and accumulated micro-batches."""
    micro_batch: Count = 8
    """Crops a process takes through the networks at once; gradients of several accumulate to its share of the batch."""
    workers: CountOrZero = 2
    """Processes that prepare crops beside each training process; 0: none, it prepares them itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.presets), f"data.presets: expected at least one of {', '.join(DEGRADATIONS)}, found none.")
        scales = {name: DEGRADATIONS[name].scale for name in self.presets}
        require(
            len(set(scales.values())) == 1,
            f"data.presets: expected degradations of one scale, found {scales}. Train a LoRA for each scale.",
        )
        require(
            self.crop >= 4 * self.scale and self.crop % self.scale == 0,
            f"data.crop: expected a multiple of {self.scale}, at least {4 * self.scale}, found {self.crop}.",
        )
        weights = self.folders().values()
        require(
            bool(weights) and all(0 < weight < math.inf for weight in weights),
            f"data.photos: expected a folder, or folders with weights above 0, found {self.photos}.",
        )

    def folders(self) -> dict[Path, float]:
        """`photos` as folders with their weights: a crop comes from a folder with a chance in proportion to it."""
        if isinstance(self.photos, Path):
            return {self.photos: 1.0}
        return {Path(folder): weight for folder, weight in self.photos.items()}

    @property
    def scale(self) -> int:
        """How many times smaller than x_hr the degradations make x_lq."""
        return DEGRADATIONS[self.presets[0]].scale


@dataclass(kw_only=True)
class LossConfig(Section):
    """L_gen = MSE + lambda_2 perceptual + lambda_1 adversarial (arXiv 2410.04224, section 3.4) + two terms of ours."""

    perceptual: PerceptualName = "ea_dists"
    """The perceptual term: none, DISTS, or edge-aware DISTS (the paper)."""
    vgg: Path | None = None
    """VGG16's convolutions for DISTS (torchvision's `vgg16-397923af.pth` or safetensors); not part of the project."""
    lambda_1: PositiveOrZero = 5e-3
    """Weight of the adversarial term."""
    adversarial_share: PositiveOrZero = 0.0
    """Norm of the adversarial gradient over the other terms', held at each step in place of lambda_1; 0: lambda_1."""
    lambda_2: PositiveOrZero = 1.0
    """Weight of the perceptual term."""
    lambda_cycle: PositiveOrZero = 0.0
    """Weight of MSE(z_sr, E(x_sr)), not the paper's: keeps latents near those of pictures, against woven patterns."""
    lambda_direction: PositiveOrZero = 0.0
    """Weight of the direction term, not the paper's: takes back fine detail in directions the original has not."""
    perceptual_from: CountOrZero = 0
    """Step at which the perceptual term joins; before it MSE stands alone."""


@dataclass(kw_only=True)
class DiscriminatorConfig(Section):
    """The network that learns to tell restored latents from real ones."""

    kind: DiscriminatorKind = "nad"
    """`nad`: half of the generator's UNet (DFOSD), `nad_random`: untrained; `sdxl`: D3SR's; `pixel`: a CNN; `none`."""
    base: Path | None = None
    """SDXL 1.0-base (diffusers folder or checkpoint file) for kind `sdxl`."""
    head: HeadKind = "pointwise"
    """MLP on the mid block: `pointwise` 1x1 convolutions; `conv` CODiff's two 4x4; `strided` DMD2's 4x4 grid."""
    rank: Count = 16
    """Rank of the discriminator's LoRA (paper: 16)."""
    lora_alpha: Positive = 16.0
    """Alpha of the discriminator's LoRA (paper: 16)."""
    lr: Positive = 5e-5
    """Peak learning rate of the discriminator (paper: 5e-5)."""
    from_step: int = 0
    """Step at which the adversarial term joins the generator's loss."""
    warmup_steps: int = 0
    """Steps for which the discriminator trains alone before that."""
    t_noise_min: int = 0
    """Smallest timestep at which latents are noised for it."""
    t_noise_max: int = NUM_TIMESTEPS - 1
    """Largest such timestep, included (paper: all of the schedule)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        found = f"{self.t_noise_min} and {self.t_noise_max}"
        require(
            0 <= self.t_noise_min <= self.t_noise_max < NUM_TIMESTEPS,
            f"discriminator.t_noise_min and t_noise_max: expected 0 <= min <= max < {NUM_TIMESTEPS}, found {found}.",
        )
        require(
            0 <= self.warmup_steps <= self.from_step,
            f"discriminator.warmup_steps: expected 0 to from_step ({self.from_step}), found {self.warmup_steps}. "
            "The discriminator warms up in the steps before from_step.",
        )


@dataclass(kw_only=True)
class OptimConfig(Section):
    """AdamW for both networks."""

    steps: Count = 100_000
    """Optimiser steps in all."""
    lr: Positive = 5e-5
    """Peak learning rate of the generator (paper: 5e-5)."""
    schedule: Schedule = "constant"
    """After the warm-up: constant, or a cosine down to a hundredth of the peak at the last step."""
    warmup_steps: int = 0
    """Steps of a linear warm-up of each learning rate, from the network's own first step on."""
    beta_1: Fraction = 0.9
    """AdamW's first beta."""
    beta_2: Fraction = 0.999
    """AdamW's second beta."""
    weight_decay: PositiveOrZero = 1e-2
    """AdamW's weight decay."""
    clip: PositiveOrZero = 1.0
    """Largest gradient norm, of each network by itself; 0: no clipping."""
    ema: Fraction = 0.999
    """Decay of the averaged generator that is validated and exported, less in the first steps; 0: no average."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.warmup_steps < self.steps,
            f"optim.warmup_steps: expected 0 to below optim.steps ({self.steps}), found {self.warmup_steps}.",
        )


@dataclass(kw_only=True)
class ValidationConfig(Section):
    """Held-out pairs that go through `pipeline.upscale` now and then."""

    pairs: Path | None = None
    """A folder with `LR/` and `HR/`, as `make_pairs` makes it; none: of photographs that the run sets aside itself."""
    every: Count = 1000
    """Steps between validations; the last step is always validated."""
    count: CountOrZero = 16
    """At most this many pairs, evenly chosen; set aside are at most a tenth of the photographs. 0: no validation."""
    best_by: Literal["DISTS", "LPIPS", "PSNR-Y", "SSIM-Y"] = "DISTS"
    """Metric by which the best LoRA is kept. DISTS needs loss.vgg (with pairs set aside: else PSNR-Y), LPIPS pyiqa."""


@dataclass(kw_only=True)
class RunConfig(Section):
    """Where, how long between saves, with what numbers."""

    out: Path = Path("runs/dfosd")
    """Folder for checkpoint, logs, pictures and LoRAs."""
    seed: Seed = 0
    """Seed of everything that is drawn."""
    device: Device = "auto"
    """auto: the GPU that torch finds; a CPU only where there is none, and no GPU build of torch either."""
    precision: Precision = "bf16"
    """Autocast of UNet, VAE and VGG; latent arithmetic, losses and logits stay float32."""
    base_dtype: BaseDtype = "auto"
    """The frozen base's numbers in memory; auto: bfloat16 with precision bf16 on a GPU, else float32."""
    gradient_checkpointing: bool = False
    """Compute activations of UNets and decoder again in the backward pass: less memory, more time."""
    channels_last: bool = True
    """Convolutions with their channels last: faster on CPUs and recent GPUs."""
    compile: bool = False
    """torch.compile of UNets and decoder, minutes at the start. On a CPU short runs lose; not yet measured on a GPU."""
    checkpoint_every: Count = 500
    """Steps between checkpoints; besides, one at Ctrl-C and at the end."""
    keep_checkpoints: Count = 3
    """Checkpoints that stay, the newest among them; besides checkpoint.pt they are named by their steps."""
    log_every: Count = 10
    """Steps between log lines, each the mean of its steps."""
    wandb: str | None = None
    """A project of Weights & Biases to log to as well, if wandb is installed; WANDB_MODE=offline keeps it here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.base_dtype != "bfloat16" or self.precision != "no",
            "run.base_dtype: bfloat16 needs run.precision bf16 or fp16, found no. Set run.base_dtype to auto.",
        )


@dataclass(kw_only=True)
class TrainConfig:
    """One training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The generator."""
    data: DataConfig = field(default_factory=DataConfig)
    """Photographs and batches."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Terms and weights."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The generator's opponent."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Steps and learning rates."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Held-out pairs."""
    run: RunConfig = field(default_factory=RunConfig)
    """Folder, seed, precision."""

    def __post_init__(self) -> None:
        require(
            not PERCEPTUAL_TERMS[self.loss.perceptual].needs_vgg or self.loss.vgg is not None,
            f"loss.perceptual is '{self.loss.perceptual}', which needs loss.vgg, a file with VGG16's convolutions. "
            "Give one, or set loss.perceptual to none.",
        )
        require(
            self.loss.perceptual == "none" or self.loss.perceptual_from < self.optim.steps,
            f"loss.perceptual_from ({self.loss.perceptual_from}) is not before the last step ({self.optim.steps}): the "
            "term would never join. Set loss.perceptual to none.",
        )
        require(
            self.loss.lambda_direction == 0 or self.data.crop >= WINDOW_PX,
            f"data.crop: expected at least {WINDOW_PX} with loss.lambda_direction, found {self.data.crop}.",
        )
        require(
            self.validation.pairs is None or self.validation.best_by != "DISTS" or self.loss.vgg is not None,
            "validation.best_by is DISTS, which needs loss.vgg, a file with VGG16's convolutions. Give one, or set "
            "validation.best_by to PSNR-Y or SSIM-Y.",
        )
        require(
            (self.discriminator.kind == "sdxl") == (self.discriminator.base is not None),
            f"discriminator.base: expected with discriminator.kind sdxl and only there, found "
            f"{self.discriminator.base} with kind {self.discriminator.kind}.",
        )
        require(
            self.discriminator.kind == "none" or self.discriminator.from_step < self.optim.steps,
            f"discriminator.from_step ({self.discriminator.from_step}) is not before the last step "
            f"({self.optim.steps}): the discriminator would never be used. Set discriminator.kind to none.",
        )


def plain_config(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """The configuration as nested dicts of plain values, for YAML and checkpoints: paths become text."""
    return {section.name: plain_values(getattr(config, section.name)) for section in fields(config)}


def plain_values(section: Any) -> dict[str, Any]:
    """One section of a configuration as a dict of plain values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(section).items()}
