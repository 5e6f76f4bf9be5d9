"""ComfyUI's adapter in a small ComfyUI of the tests: a LoRA on clones, as on a graphics card, and by hooks."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
from support.conformance import HostCase, HostConformance
from support.fakes.comfyui import ComfyUI, load_checkpoint
from support.fakes.install import installed
from support.fakes.networks import TinySd, tiny_sd
from support.fakes.patching import load_models_gpu


@pytest.fixture(scope="module", autouse=True)
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    comfyui = ComfyUI(tmp_path_factory.mktemp("comfy"))
    with installed(comfyui.modules()):
        yield comfyui


def comfy_case(sd: TinySd, *, on_a_card: bool) -> HostCase:
    model, vae = load_checkpoint(sd, on_a_card=on_a_card)
    host = importlib.import_module("dfosd_core.hosts.comfy.host").ComfyHost(model, vae)

    def weights() -> str:
        load_models_gpu([model, vae.patcher])  # as whoever uses the base next: until then a patch may stay
        return sd.weights()

    return HostCase(host=host, lora=sd.lora, weights=weights, merged_reference=sd.merged_eps, writes_weights=False)


@pytest.fixture(scope="module")
def sd() -> TinySd:
    return tiny_sd()


@pytest.fixture(scope="module")
def on_a_card(program: ComfyUI, sd: TinySd) -> HostCase:
    return comfy_case(sd, on_a_card=True)


@pytest.fixture(scope="module")
def on_a_cpu(program: ComfyUI, sd: TinySd) -> HostCase:
    return comfy_case(sd, on_a_card=False)


class TestComfyOnACard(HostConformance):
    """The LoRA lies on a clone's weights."""

    @pytest.fixture
    def case(self, on_a_card: HostCase) -> HostCase:
        return on_a_card


class TestComfyOnACpu(HostConformance):
    """The UNet's LoRA acts by hooks: patched weights would lie beside the original ones."""

    @pytest.fixture
    def case(self, on_a_cpu: HostCase) -> HostCase:
        return on_a_cpu
