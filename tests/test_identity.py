"""The paper's complexity figures (method.md 1.3) hold for our layout, counted by us and by thop itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from torch import nn

from dfosd_core.lora.names import LORA_TARGETS
from dfosd_core.networks.complexity import ArchitectureReport, sd21_models, sd21_report
from dfosd_core.networks.vae import Vae
from dfosd_core.networks.winograd import WinogradConv2d


@pytest.fixture(scope="module")
def report() -> ArchitectureReport:
    return sd21_report()


def test_layers_and_parameters_equal_the_papers(report: ArchitectureReport) -> None:
    assert report.lora_layers == 278
    assert report.lora_parameters == 16_944_128
    assert report.base_parameters == 949_564_587
    assert f"{report.thop_parameters / 1e6:.3f}" == "966.344"


def test_macs_equal_the_papers_merged_and_unmerged(report: ArchitectureReport) -> None:
    assert f"{report.encode_macs / 1e9:.3f}" == "541.149"
    assert f"{report.unet_macs / 1e9:.3f}" == "339.241"
    assert f"{report.decode_macs / 1e9:.3f}" == "1240.080"
    assert f"{report.macs_merged / 1e9:.2f}" == "2120.47"
    assert f"{report.macs_unmerged / 1e9:.2f}" == "2132.27"


class _Whole(nn.Module):
    """Encoder, UNet and decoder in one call, since thop profiles a module."""

    def __init__(self, unet: nn.Module, vae: Vae) -> None:
        super().__init__()
        self.unet, self.vae = unet, vae

    def forward(self, x: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(self.unet(self.vae.encode(x), 399, prompt_embeds))


@pytest.mark.parametrize(("with_lora", "macs"), [(False, "2120.47"), (True, "2132.27")])
def test_thop_itself_counts_the_papers_figures(with_lora: bool, macs: str, report: ArchitectureReport) -> None:
    thop = pytest.importorskip("thop")
    unet, vae = sd21_models()
    if with_lora:
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=16, lora_alpha=16, target_modules=list(LORA_TARGETS))
        with torch.device("meta"):
            unet = peft.inject_adapter_in_model(config, unet)
    inputs = (torch.empty(1, 3, 512, 512, device="meta"), torch.empty(1, 77, 1024, device="meta"))
    # thop knows torch's own classes only.
    kinds = {WinogradConv2d: thop.vision.basic_hooks.count_convNd}
    operations, parameters = thop.profile(_Whole(unet, vae), inputs=inputs, custom_ops=kinds, verbose=False)
    assert f"{operations / 1e9:.2f}" == macs
    expected = report.thop_parameters - (0 if with_lora else report.lora_parameters)
    assert int(parameters) == expected


def test_the_thop_compared_with_is_the_one_the_paper_was_matched_with() -> None:
    try:
        found = version("thop")
    except PackageNotFoundError:
        pytest.skip("thop is a development dependency")
    assert found.startswith("0.1.1")
