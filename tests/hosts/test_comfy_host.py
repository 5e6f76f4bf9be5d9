"""ComfyUI's adapter in a small ComfyUI of the tests: a LoRA on clones, as on a graphics card, and by hooks."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.conformance import CheckpointConformance, HostCase
from support.fakes.comfyui import ComfyUI, InterruptProcessingException, load_checkpoint
from support.fakes.install import installed
from support.fakes.networks import TinySd, tiny_sd
from support.fakes.patching import ModelPatcher, load_models_gpu

from dfosd_core.attach import attached
from dfosd_core.lora.parts import PIXEL, SEMANTIC
from dfosd_core.settings import UpscaleSettings


@pytest.fixture(scope="module", autouse=True)
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    comfyui = ComfyUI(tmp_path_factory.mktemp("comfy"))
    with installed(comfyui.modules()):
        yield comfyui


def comfy_host(sd: TinySd, *, on_a_card: bool) -> tuple[Any, Any, Any]:
    """The adapter, its MODEL and its VAE."""
    model, vae = load_checkpoint(sd, on_a_card=on_a_card)
    return importlib.import_module("dfosd_core.hosts.comfy.host").ComfyHost(model, vae), model, vae


def comfy_case(sd: TinySd, *, on_a_card: bool) -> HostCase:
    host, model, vae = comfy_host(sd, on_a_card=on_a_card)

    def weights() -> str:
        load_models_gpu([model, vae.patcher])  # as whoever uses the base next: until then a patch may stay
        return sd.weights()

    return HostCase(
        host=host,
        lora=sd.lora,
        weights=weights,
        merged_reference=sd.merged_eps,
        writes_weights=False,
        leaves_gradients=True,
    )


@pytest.fixture(scope="module")
def cases(program: ComfyUI) -> dict[str, tuple[TinySd, HostCase]]:
    """A checkpoint and its case for each place where its UNet may rest."""
    checkpoints = {"card": tiny_sd(), "cpu": tiny_sd()}
    return {place: (sd, comfy_case(sd, on_a_card=place == "card")) for place, sd in checkpoints.items()}


class TestComfyOnACard(CheckpointConformance):
    """The LoRA lies on a clone's weights."""

    @pytest.fixture
    def case(self, cases: dict[str, tuple[TinySd, HostCase]]) -> HostCase:
        return cases["card"][1]

    @pytest.fixture
    def sd(self, cases: dict[str, tuple[TinySd, HostCase]]) -> TinySd:
        return cases["card"][0]

    @pytest.fixture
    def open_host(self) -> Any:
        return lambda sd: comfy_host(sd, on_a_card=True)[0]

    def test_clones_live_on_until_something_changes(self, case: HostCase, sd: TinySd) -> None:
        clones = case.host._clones
        with case.host.lora(sd.lora, 1.0):
            first = case.host._model
        with case.host.lora(sd.lora, 1.0):
            assert case.host._model is first
        with case.host.lora(sd.lora, 0.5):
            assert case.host._model is not first
        clones.clear()

    def test_two_passes_patch_clones_once_and_let_go_of_one_after_the_run(
        self, sd: TinySd, z: torch.Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many tiles there are: PiSA-SR's passes change LoRAs at each of them."""
        made: list[weakref.ref[Any]] = []
        add_patches = ModelPatcher.add_patches

        def noted(patcher: ModelPatcher, patches: Any, *strengths: float) -> list[str]:
            if patcher.model is model.model and not any(known() is patcher for known in made):
                made.append(weakref.ref(patcher))
            return add_patches(patcher, patches, *strengths)

        def alive() -> int:
            gc.collect()
            return sum(patcher() is not None for patcher in made)

        monkeypatch.setattr(ModelPatcher, "add_patches", noted)
        modules = [importlib.import_module(f"dfosd_core.hosts.comfy.{name}") for name in ("host", "clones")]
        (model, vae), kept = load_checkpoint(sd, on_a_card=True), modules[1].LoraClones()
        rank = sd.lora.metadata.rank
        metadata = dataclasses.replace(sd.lora.metadata, parts={PIXEL: 1, SEMANTIC: rank - 1})
        lora = dataclasses.replace(sd.lora, metadata=metadata)
        for so_far in (2, 3):  # the second run finds the whole LoRA's, with which the first one ended
            host = modules[0].ComfyHost(model, vae, kept)
            with attached(host, lora, UpscaleSettings(pixel_strength=0.5)) as both:
                for _ in range(4):
                    both.predict_eps(z, 1, lora.prompt_embeds)
                assert (len(made), alive()) == (so_far, 2)
            del host, both
            assert alive() == 1
        kept.clear()
        assert alive() == 0


class TestComfyOnACpu(CheckpointConformance):
    """The UNet's LoRA acts by hooks: patched weights would lie beside the original ones."""

    @pytest.fixture
    def case(self, cases: dict[str, tuple[TinySd, HostCase]]) -> HostCase:
        return cases["cpu"][1]

    @pytest.fixture
    def sd(self, cases: dict[str, tuple[TinySd, HostCase]]) -> TinySd:
        return cases["cpu"][0]

    @pytest.fixture
    def open_host(self) -> Any:
        return lambda sd: comfy_host(sd, on_a_card=False)[0]

    def test_the_users_stop_button_is_asked_before_every_call(
        self, case: HostCase, program: ComfyUI, z: torch.Tensor
    ) -> None:
        for call in (lambda: case.host.encode(torch.zeros(1, 3, 16, 16)), lambda: case.host.decode(z)):
            program.interrupted = True
            with pytest.raises(InterruptProcessingException):
                call()
