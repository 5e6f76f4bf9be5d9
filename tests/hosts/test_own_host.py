"""The host over our own networks: the conformance suite, with diffusers' networks and an unmerged LoRA as oracle."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.conformance import HostCase, HostConformance
from support.diffusers_host import DiffusersHost, load_default_with_diffusers, own_twin
from support.tiny_models import random_lora, tiny_host
from torch import Tensor, nn

from dfosd_core.errors import BaseModelMismatchError
from dfosd_core.hosts.own import load_default
from dfosd_core.lora.file import DfosdLora, LoraPair
from dfosd_core.lora.names import kohya_name, lora_target_names
from dfosd_core.schedule import alpha_bar_at
from dfosd_core.training.base import replace_group_norms


def weights_hash(*networks: nn.Module) -> str:
    digest = hashlib.sha256()
    for network in networks:
        for parameter in network.parameters():
            digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def unmerged_eps(host: DiffusersHost, lora: DfosdLora) -> Callable[[Tensor, int, Tensor, float], Tensor]:
    """The base with the LoRA run beside its layers by forward hooks, so that no weight is touched."""
    unet = copy.deepcopy(host.unet)

    def predict(z: Tensor, t: int, prompt_embeds: Tensor, strength: float) -> Tensor:
        handles = []
        for name in lora_target_names(unet):
            pair = lora.pairs[kohya_name(name)]
            layer = unet.get_submodule(name)

            def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, pair: LoraPair = pair) -> Tensor:
                if isinstance(layer, nn.Conv2d):
                    low = layer._conv_forward(inputs[0], pair.down, None)  # with its stride and padding
                    return output + strength * pair.alpha / pair.rank * nn.functional.conv2d(low, pair.up)
                return output + strength * pair.alpha / pair.rank * (inputs[0] @ pair.down.T @ pair.up.T)

            handles.append(layer.register_forward_hook(add))
        with torch.no_grad():
            context = prompt_embeds.expand(len(z), -1, -1)
            output = unet(z, t, encoder_hidden_states=context).sample
        for handle in handles:
            handle.remove()
        if host.layout.prediction_type == "v_prediction":
            return alpha_bar_at(t) ** 0.5 * output + (1 - alpha_bar_at(t)) ** 0.5 * z
        return output

    return predict


def make_case(oracle: DiffusersHost, lora: DfosdLora) -> HostCase:
    host = own_twin(copy.deepcopy(oracle))
    return HostCase(
        host=host,
        lora=lora,
        weights=lambda: weights_hash(host.unet, host.vae),
        folds=True,
        merged_reference=unmerged_eps(oracle, lora),
    )


def tiny_case(**changes: Any) -> HostCase:
    oracle = tiny_host(**changes)
    return make_case(oracle, random_lora(oracle))


@cache
def epsilon_case() -> HostCase:
    return tiny_case()


@cache
def sd1_case() -> HostCase:
    return tiny_case(attention_head_dim=8, use_linear_projection=False)


@cache
def local_norm_case() -> HostCase:
    host = tiny_host()
    for model in (host.unet, host.vae):
        assert replace_group_norms(model) > 0
    # Without norms the random network's signal would grow from layer to layer.
    with torch.no_grad():
        for name, parameter in host.unet.named_parameters():
            if parameter.ndim > 1 and "conv2" in name:
                parameter.mul_(0.2)
    return make_case(host, random_lora(host))


@cache
def embedded_case() -> HostCase:
    """With a LoRA of the suite's size: the one that ships was trained, not made to change a lot."""
    oracle, _ = load_default_with_diffusers(torch.float32)
    return make_case(oracle, random_lora(oracle))


class TestEpsilonBase(HostConformance):
    """SD 2.x: heads of one width and linear layers around the transformers."""

    @pytest.fixture
    def case(self) -> HostCase:
        return epsilon_case()


class TestSd1Layout(HostConformance):
    """SD 1.x: eight heads a level and 1x1 convolutions around the transformers."""

    @pytest.fixture
    def case(self) -> HostCase:
        return sd1_case()


class TestLocalNormBase(HostConformance):
    """The embedded small base's kind: no norm statistics."""

    @pytest.fixture
    def case(self) -> HostCase:
        return local_norm_case()


class TestEmbeddedDefault(HostConformance):
    """The base that ships."""

    @pytest.fixture
    def case(self) -> HostCase:
        return embedded_case()


def test_v_predicting_base_gives_eps() -> None:
    case = tiny_case(prediction_type="v_prediction")
    z = torch.randn(1, 4, 8, 8)
    expected = case.merged_reference(z, 399, case.lora.prompt_embeds, 0.0)
    torch.testing.assert_close(case.host.predict_eps(z, 399, case.lora.prompt_embeds), expected, rtol=0, atol=1e-5)


def test_scaling_and_shift_are_applied_and_taken_away() -> None:
    oracle = tiny_host()
    oracle.vae.register_to_config(shift_factor=0.3, scaling_factor=2.0)
    host = own_twin(oracle)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        mean = oracle.vae.encode(x).latent_dist.mean
        decoded = oracle.vae.decode(mean).sample
    torch.testing.assert_close(host.encode(x), (mean - 0.3) * 2.0)
    torch.testing.assert_close(host.decode(host.encode(x)), decoded, rtol=0, atol=1e-5)


def test_half_precision_host_gives_float32_near_the_full_one() -> None:
    full, half = own_twin(tiny_host()), own_twin(tiny_host())
    half.unet.bfloat16()
    half.vae.bfloat16()
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    z, z_half = full.encode(x), half.encode(x)
    assert z_half.dtype == torch.float32
    assert not torch.equal(z, z_half)
    torch.testing.assert_close(z_half, z, rtol=0, atol=0.05 * z.abs().max().item())


def test_size_step_is_f_or_with_local_norms_the_whole_grid() -> None:
    oracle = tiny_host()
    host = own_twin(oracle)
    assert (host.layout.latent_factor, host.size_multiple_px) == (2, 2)
    replace_group_norms(oracle.unet)
    assert own_twin(oracle).size_multiple_px == 4


def test_missing_default_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelMismatchError, match=r"The embedded default is incomplete: there is no '.*small_base'"):
        load_default(weights=tmp_path)


def test_networks_in_training_are_shared_and_not_copied() -> None:
    oracle = tiny_host()
    host = own_twin(oracle)
    theirs = dict(oracle.unet.named_parameters())
    assert all(parameter is theirs[name] for name, parameter in host.unet.named_parameters())
    assert not any(parameter.requires_grad for parameter in theirs.values())
