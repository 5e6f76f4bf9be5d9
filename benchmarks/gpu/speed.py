"""Milliseconds of encoder, UNet and decoder at 512 and 1024 pixels, in ways that a run could take.

SD 2.1's layout with random weights, in the number format of a run on the device; the median of several calls after some
that are not counted. `as a run` is what a run does on a card today: channels last, the constants of timestep and prompt
folded. `upsampling folded` adds the transposed convolution, which is in use on CPUs only. torch.compile comes last and
stage by stage, since it takes its time before the first call.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dfosd_core.hosts.own import OwnHost, fast_dtype, load_base
from dfosd_core.networks.folding import folded

from .correctness import fold_upsampling_anywhere
from .setting import Row, Setting

COLUMNS = ("stage", "pixels", "way", "ms", "times as fast as a run")
T = 399
AS_A_RUN = "as a run"
WAYS = (AS_A_RUN, "nothing folded", "contiguous", "upsampling folded")
WARM_UP, RUNS = 3, 15

Stages = dict[str, Callable[[], Tensor]]


@dataclass
class Speeds:
    """What was measured, as rows with their speed beside a run's."""

    setting: Setting
    seconds: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])
    """Of a run, by stage and pixels."""

    def row(self, stage: str, edge: int, way: str, run: Callable[[], Tensor]) -> Row:
        """Measure `run`, which is warm after a few calls. The first way of a stage and size is the run's."""
        warm_up, runs = (1, 1) if self.setting.tiny else (WARM_UP, RUNS)
        spent: list[float] = []
        for _ in range(warm_up + runs):
            self.setting.wait()
            began = time.perf_counter()
            run()
            self.setting.wait()
            spent.append(time.perf_counter() - began)
        seconds = statistics.median(spent[warm_up:])
        times = self.seconds.setdefault((stage, edge), seconds) / seconds
        return Row((stage, f"{edge}", way, f"{1000 * seconds:.1f}", f"{times:.2f}"))


@torch.no_grad()
def rows(setting: Setting) -> Generator[Row, None, None]:
    """Everything without torch.compile first."""
    dtype = torch.float32 if setting.tiny else fast_dtype(setting.device)
    host = load_base(setting.base, dtype, setting.device)
    prompt = torch.zeros(1, 77, host.layout.context_dim, dtype=dtype, device=setting.device)
    speeds, edges = Speeds(setting), (16,) if setting.tiny else (512, 1024)
    for edge in edges:
        for way in WAYS:
            _arrange(host, torch.contiguous_format if way == "contiguous" else torch.channels_last)
            with nullcontext() if way == "nothing folded" else folded(host.unet, host.vae, T, prompt):
                if way == "upsampling folded":
                    fold_upsampling_anywhere(host.unet)
                    fold_upsampling_anywhere(host.vae)
                for stage, run in _stages(host, prompt, edge, way).items():
                    yield speeds.row(stage, edge, way, run)
    _arrange(host, torch.channels_last)
    yield from _compiled(setting, host, prompt, speeds, edges)


def _arrange(host: OwnHost, memory_format: torch.memory_format) -> None:
    for network in (host.unet, host.vae):
        network.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]


def _stages(host: OwnHost, prompt: Tensor, edge: int, way: str) -> Stages:
    """Each stage as a call; the encoder has no upsampling."""
    weight, cells = host.unet.conv_in.weight, edge // host.layout.latent_factor
    memory_format = torch.contiguous_format if way == "contiguous" else torch.channels_last
    sizes = (1, 3, edge, edge), (1, host.layout.latent_channels, cells, cells)
    x, z = (torch.randn(size, device=weight.device, dtype=weight.dtype) for size in sizes)
    x, z = x.to(memory_format=memory_format), z.to(memory_format=memory_format)
    stages: Stages = {
        "encode": lambda: host.vae.encode(x),
        "UNet": lambda: host.unet(z, T, prompt),
        "decode": lambda: host.vae.decode(z),
    }
    if way == "upsampling folded":
        del stages["encode"]
    return stages


def _compiled(setting: Setting, host: OwnHost, prompt: Tensor, speeds: Speeds, edges: tuple[int, ...]) -> Iterator[Row]:
    # Tiny: only whether torch can follow the code.
    backend, skipped = ("eager", ("encode", "decode")) if setting.tiny else ("inductor", ())
    with folded(host.unet, host.vae, T, prompt):
        for edge in edges:
            for stage, run in reversed(_stages(host, prompt, edge, AS_A_RUN).items()):
                if stage in skipped:
                    continue
                began = time.perf_counter()
                compiled = torch.compile(run, backend=backend, dynamic=False)
                compiled()
                setting.wait()
                way = f"as a run, compiled in {time.perf_counter() - began:.0f} s"
                yield speeds.row(stage, edge, way, compiled)
    torch.compiler.reset()
