"""The networks of a TrainConfig: base, generator with the start of its prompt, discriminator, perceptual loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.lora.file import DfosdLora
from dfosd_core.lora.metadata import LoraMetadata, check_base
from dfosd_core.lora.parts import PIXEL, SEMANTIC, split
from dfosd_core.networks.embedded import DEFAULT_BASE, DEFAULT_WEIGHTS, EMBEDDED
from dfosd_core.training.base import TrainingBase, enable_checkpointing, read_training_base
from dfosd_core.training.compiling import compile_in_place
from dfosd_core.training.discriminators import make_discriminator
from dfosd_core.training.dists import Dists
from dfosd_core.training.generator import DfosdGenerator
from dfosd_core.training.lora_layers import new_prompt
from dfosd_core.training.losses import PERCEPTUAL_TERMS, PerceptualLoss
from dfosd_core.training.sdxl import read_sdxl_unet

from ..settings.config import RunConfig, TrainConfig
from .start import RULE, complete_start, open_pixel, open_start, start_notes

PROMPT_FILE = "prompt_embeds.safetensors"
PROMPT_KEY = "prompt_embeds"
BASE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Networks:
    """All networks of a run on `device`: the base's tensors once, in `base_dtype`, and all else in float32."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.base_dtype = base_dtype(config.run, device)
        self.notes: list[str] = []
        """What the user has to know of the LoRA that the run starts from, one line each."""
        # First: they are the smaller files.
        path = config.model.init_lora
        start = None if path is None else open_start(path)
        pixel = None if config.model.pixel_lora is None else open_pixel(config.model.pixel_lora)
        origin = pixel if start is None else start
        self.start: LoraMetadata | None = None if origin is None else origin.metadata
        """Of the LoRA that the exported one comes from: its source and licence go on."""
        self.base = self._read_base(base_path(config))
        whole = None if start is None else complete_start(start, base_path(config), self.base.layout, f"'{path}'")
        self.generator = self._make_generator(whole)
        if pixel is not None:
            self._stand_on(pixel)
        adversarial = config.discriminator.kind != "none" and config.loss.lambda_1 > 0
        self.discriminator = self._make_discriminator() if adversarial else None
        self.perceptual = self._make_perceptual()
        if config.run.compile:
            self._compile()

    def memory_format(self) -> torch.memory_format:
        """Of convolutions and images."""
        return torch.channels_last if self.config.run.channels_last else torch.contiguous_format

    def _read_base(self, path: Path) -> TrainingBase:
        base = read_training_base(path, self.device, self.base_dtype)
        if base.layout.prediction_type != "epsilon":
            raise ConfigError(
                f"model.base: '{path.name}' predicts {base.layout.prediction_type}, expected epsilon. "
                "Give SD 2.1-base (the 512 px model)."
            )
        multiple = base.layout.latent_factor * 2 ** (len(base.layout.block_out_channels) - 1)
        if self.config.data.crop % multiple:
            raise ConfigError(
                f"data.crop: expected a multiple of {multiple} for this base, found {self.config.data.crop}."
            )
        self._prepare(base.unet, base.vae)
        return base

    def _prepare(self, unet: Any, vae: Any = None) -> None:
        for network in (unet, vae):
            if network is not None:
                network.to(memory_format=self.memory_format())
                if self.config.run.gradient_checkpointing:
                    enable_checkpointing(network)

    def _make_generator(self, start: DfosdLora | None) -> DfosdGenerator:
        model, layout = self.config.model, self.base.layout
        rng = torch.Generator().manual_seed(self.config.run.seed)
        if start is None:
            self.prompt = initial_prompt(base_path(self.config), model.prompt_tokens, layout.context_dim, rng)
        else:
            self.prompt = start.prompt_embeds.float()
        generator = DfosdGenerator(
            self.base.vae,
            self.base.unet,
            prompt_embeds=self.prompt.to(self.device),
            t=model.timestep,
            rank=model.rank,
            lora_alpha=model.lora_alpha,
            rng=rng,
        )
        if start is not None:
            try:
                self.notes += start_notes(start, generator, generator.load_lora(start))
            except DfosdError as error:
                raise ConfigError(f"model.init_lora '{model.init_lora}': {error}") from error
        return cast("Any", generator).to(memory_format=self.memory_format())

    def _stand_on(self, pixel: DfosdLora) -> None:
        model, about = self.config.model, pixel.metadata
        try:
            check_base(about.base_layout, self.base.layout)
            if (about.timestep, about.rule) != (model.timestep, RULE):
                raise ConfigError(
                    f"It was trained at timestep {about.timestep} with the rule {about.rule}, expected "
                    f"{model.timestep} and {RULE}. Set model.timestep to its own."
                )
            if set(about.parts) != {PIXEL, SEMANTIC}:
                self.generator.stand_on(pixel)
                return
            parts = split(pixel)
            self.generator.stand_on(parts[PIXEL])
            errors = self.generator.load_lora(parts[SEMANTIC])
            self.notes += start_notes(parts[SEMANTIC], self.generator, errors, "model.pixel_lora")
        except DfosdError as error:
            raise ConfigError(f"model.pixel_lora '{model.pixel_lora}': {error}") from error

    def _make_discriminator(self) -> nn.Module | None:
        settings = self.config.discriminator
        # A generator of its own, so that the generator starts equal beside every discriminator.
        rng = torch.Generator().manual_seed(self.config.run.seed + 1)
        sdxl_unet = None
        if settings.base is not None:
            sdxl_unet = read_sdxl_unet(settings.base, self.device, self.base_dtype)
            self._prepare(sdxl_unet)
        discriminator = make_discriminator(
            settings.kind,
            self.base.unet,
            sdxl_unet=sdxl_unet,
            prompt_embeds=self.prompt.to(self.device),
            rank=settings.rank,
            lora_alpha=settings.lora_alpha,
            head=settings.head,
            rng=rng,
        )
        return cast("Any", discriminator).to(self.device, memory_format=self.memory_format())

    def _compile(self) -> None:
        compile_in_place(cast("Any", self.base.vae).decoder)
        compile_in_place(self.generator.unet)
        if self.discriminator is not None:
            compile_in_place(self.discriminator)

    def _make_perceptual(self) -> PerceptualLoss | None:
        loss = self.config.loss
        make = PERCEPTUAL_TERMS[loss.perceptual].make
        if make is None or loss.lambda_2 == 0:
            return None
        # Not float16: the squares in DISTS' pooling overflow it.
        dtype = torch.bfloat16 if self.config.run.precision == "bf16" else torch.float32
        return make(loss.vgg, dtype).to(self.device)


def base_dtype(run: RunConfig, device: torch.device) -> torch.dtype:
    """The number format in which the frozen base is held on `device`."""
    if run.base_dtype != "auto":
        return BASE_DTYPES[run.base_dtype]
    # Half the memory for the same results. Not on a CPU, where memory is rarely short: there a LoRA whose rank is near
    # the base's width is added to the base's weights before they are rounded.
    return torch.bfloat16 if run.precision == "bf16" and device.type != "cpu" else torch.float32


def base_path(config: TrainConfig) -> Path:
    """The base's folder or file."""
    base = config.model.base
    return DEFAULT_WEIGHTS / DEFAULT_BASE if base == EMBEDDED else Path(base)


def make_dists(config: TrainConfig, dtype: torch.dtype) -> Dists | None:
    """DISTS with the given VGG; None without one."""
    return None if config.loss.vgg is None else Dists.from_files(config.loss.vgg, dtype=dtype)


def initial_prompt(base: Path, tokens: int, context_dim: int, rng: torch.Generator) -> Tensor:
    """The start of the learnable prompt embedding (1, N, context_dim), float32.

    In this order: the base's text encoder's output for "", the embedding saved beside the base, N(0, 0.02^2) of
    `tokens` tokens. Raises ConfigError where there is an encoder and no transformers, or a width does not fit.
    """
    if (base / "text_encoder").is_dir() and (base / "tokenizer").is_dir():
        prompt = _encode_nothing(base)
    elif (base / PROMPT_FILE).is_file():
        prompt = load_file(base / PROMPT_FILE)[PROMPT_KEY].float()
    else:
        prompt = new_prompt(tokens, context_dim, rng)
    if prompt.ndim != 3 or prompt.shape[0::2] != (1, context_dim):
        raise ConfigError(
            f"The prompt embedding beside '{base.name}' is {tuple(prompt.shape)}, expected (1, N, {context_dim}). "
            "Its text encoder is another model's: get the base again."
        )
    return prompt


def _encode_nothing(base: Path) -> Tensor:
    try:
        import transformers  # optional, slow to import, and needed for this alone
    except ImportError as error:
        raise ConfigError(
            f"'{base.name}' has a text encoder, from which the prompt starts, but transformers is not installed. "
            "Install it (pip install transformers), or remove text_encoder/ to start from noise."
        ) from error
    library = cast("Any", transformers)
    tokenizer = library.CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
    encoder = library.CLIPTextModel.from_pretrained(base / "text_encoder", local_files_only=True)
    tokens = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
    with torch.no_grad():
        return encoder(tokens.input_ids).last_hidden_state.float()
