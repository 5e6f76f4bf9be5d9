"""The adapters of A1111, Forge and reForge, each in a small WebUI of the tests."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from support.conformance import CheckpointConformance, HostCase
from support.fakes.install import installed
from support.fakes.networks import TinySd, tiny_sd
from support.fakes.webui import WebUI
from torch import Tensor, nn

from dfosd_core.errors import BaseModelMismatchError

KINDS = {"a1111": "AUTOMATIC1111", "forge": "Forge", "reforge": "reForge"}


@pytest.fixture(scope="module", params=KINDS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    webui = WebUI(request.param, tmp_path_factory.mktemp(request.param))
    with installed(webui.modules()):
        yield webui


@pytest.fixture(scope="module")
def open_host(program: WebUI) -> Callable[[TinySd], Any]:
    """The adapter that the door finds, over the checkpoint that was loaded last."""

    def open_host(sd: TinySd) -> Any:
        program.load(sd)
        return door().program().open_checkpoint(sd.lora.metadata)

    return open_host


def door() -> Any:
    return importlib.import_module("dfosd_core.hosts.webui")


@pytest.fixture(scope="module")
def sd(program: WebUI) -> TinySd:
    return tiny_sd()


@pytest.fixture(scope="module")
def opened(sd: TinySd, open_host: Callable[[TinySd], Any]) -> HostCase:
    host = open_host(sd)
    patchers = [host._unet, host._vae.patcher] if hasattr(host, "_unet") else []

    def weights() -> str:
        for patcher in patchers:  # without the user's LoRA, which a generation of theirs puts on
            patcher.put_on_weights()
        return sd.weights()

    return HostCase(host=host, lora=sd.lora, weights=weights, merged_reference=sd.merged_eps, writes_weights=False)


class TestWebui(CheckpointConformance):
    """In Forge and reForge the weights have a LoRA of the user's on them whenever nothing of ours is loaded."""

    @pytest.fixture
    def case(self, opened: HostCase, program: WebUI) -> HostCase:
        if program.kind != "a1111":
            program.model_data.sd_model.use()
        return opened

    def test_host_is_the_programs(self, case: HostCase, program: WebUI) -> None:
        assert case.host.name == KINDS[program.kind]
        assert door().program().__name__ == f"dfosd_core.hosts.webui.{program.kind}"

    def test_vae_falls_to_float32_where_half_precision_overflows(self, open_host: Callable[[TinySd], Any]) -> None:
        sd = tiny_sd()
        host, z = open_host(sd), torch.randn(1, 4, 4, 4)
        expected = host.decode(z)  # loads the checkpoint itself, so that all of it is converted
        host._set_vae_dtype(torch.bfloat16)
        before = sd.weights()
        sd.vae.decoder.get_submodule("conv_in").register_forward_hook(_infinite_in_half)
        with host.lora(sd.lora, 1.0):
            image = host.decode(z)
            assert host._vae_dtype == torch.float32
        assert host._vae_dtype == torch.bfloat16
        assert sd.weights() == before
        assert (image - expected).abs().max() < 0.1 * expected.abs().max()  # weights of bfloat16

    def test_without_a_checkpoint(self, program: WebUI, monkeypatch: pytest.MonkeyPatch, sd: TinySd) -> None:
        monkeypatch.setattr(program.model_data, "forge_loading_parameters", {})
        monkeypatch.setattr(program.shared, "sd_model", None)
        with pytest.raises(BaseModelMismatchError, match="The WebUI has no checkpoint. Choose SD 2.1-base, or"):
            door().program().open_checkpoint(sd.lora.metadata)


def _infinite_in_half(module: nn.Module, given: Any, output: Tensor) -> Tensor:
    return output if output.dtype == torch.float32 else output * torch.inf


def test_users_networks_are_out_of_effect_in_a1111(tmp_path: Path) -> None:
    """LoRAs, hypernetworks, an exchanged UNet and merged tokens; they are back afterwards, also after an error."""
    webui, sd = WebUI("a1111", tmp_path), tiny_sd()
    with installed(webui.modules()):
        model = webui.load(sd)
        host = door().program().open_checkpoint(sd.lora.metadata)
        other = object()
        webui.networks.append("lora")
        webui.shared.loaded_hypernetworks.append("hypernetwork")
        webui.sd_unet.current_unet = other
        model.applied_token_merged_ratio = 0.5
        with pytest.raises(KeyboardInterrupt), host.lora(sd.lora, 1.0):  # noqa: PT012
            assert not webui.networks
            assert not webui.shared.loaded_hypernetworks
            assert webui.sd_unet.current_unet is None
            assert model.applied_token_merged_ratio == 0
            raise KeyboardInterrupt
        assert (webui.networks, webui.shared.loaded_hypernetworks) == (["lora"], ["hypernetwork"])
        assert webui.sd_unet.current_unet is other
        assert model.applied_token_merged_ratio == 0.5


def test_forge_does_not_load_a_checkpoint_whose_header_tells_that_it_cannot_fit(tmp_path: Path) -> None:
    webui, sd = WebUI("forge", tmp_path), tiny_sd()
    file = tmp_path / "xl.safetensors"
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    safetensors.torch.save_file({key: torch.zeros(4, 2048)}, file)
    with installed(webui.modules()):
        webui.model_data.forge_loading_parameters = {"checkpoint_info": SimpleNamespace(name="xl", filename=str(file))}
        with pytest.raises(BaseModelMismatchError, match="wants a base with context 24 .* 'xl' has 2048. Put the base"):
            door().program().open_checkpoint(sd.lora.metadata)  # loading would say that there is no model


def test_sdnexts_checkpoint_is_not_shared(tmp_path: Path) -> None:
    webui = WebUI("a1111", tmp_path)
    with installed({**webui.modules(), "modules.scripts_manager": {}}):
        with pytest.raises(BaseModelMismatchError, match="cannot be shared. Choose a base, or the embedded model"):
            door().program().open_checkpoint(tiny_sd().lora.metadata)
        assert webui.shared.sd_model is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (SimpleNamespace(forge_objects=None, first_stage_model=None), "cannot be shared"),
        (SimpleNamespace(), "cannot be shared"),
        (SimpleNamespace(first_stage_model=None, model=None), "no Stable Diffusion 1.x or 2.x"),
        (SimpleNamespace(first_stage_model=1, parameterization="eps", conditioner=1), "no Stable Diffusion 1.x or 2.x"),
        (SimpleNamespace(first_stage_model=1, parameterization="eps"), "no Stable Diffusion 1.x or 2.x"),
    ],
)
def test_other_models_are_refused_in_a1111(tmp_path: Path, model: Any, message: str) -> None:
    webui = WebUI("a1111", tmp_path)
    webui.shared.sd_model = model
    with installed(webui.modules()), pytest.raises(BaseModelMismatchError, match=message):
        door().program().open_checkpoint(tiny_sd().lora.metadata)
