"""The diffusers adapter: the conformance suite, and the image equal to a plain diffusers computation."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from support.conformance import HostCase, HostConformance
from support.tiny_models import random_lora, tiny_host
from torch import Tensor, nn

from dfosd_core.errors import BaseModelMismatchError
from dfosd_core.hosts.diffusers import DiffusersHost, load_default
from dfosd_core.lora import DfosdLora
from dfosd_core.lora.names import kohya_name, lora_target_names
from dfosd_core.networks.norms import replace_group_norms
from dfosd_core.schedule import alpha_bar_at


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

            def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, pair=pair) -> Tensor:  # noqa: ANN001
                if isinstance(layer, nn.Conv2d):
                    low = nn.functional.conv2d(inputs[0], pair.down, stride=layer.stride, padding=layer.padding)
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


def make_case(host: DiffusersHost) -> HostCase:
    lora = random_lora(host)
    return HostCase(
        host=host,
        lora=lora,
        weights=lambda: weights_hash(host.unet, host.vae),
        merged_reference=unmerged_eps(host, lora),
    )


@cache
def epsilon_case() -> HostCase:
    return make_case(tiny_host())


@cache
def sd1_case() -> HostCase:
    return make_case(tiny_host(attention_head_dim=8, use_linear_projection=False))


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
    return make_case(DiffusersHost(host.unet, host.vae, host.layout))


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


def test_v_predicting_base_gives_eps() -> None:
    case = make_case(tiny_host(prediction_type="v_prediction"))
    z = torch.randn(1, 4, 8, 8)
    expected = case.merged_reference(z, 399, case.lora.prompt_embeds, 0.0)
    torch.testing.assert_close(case.host.predict_eps(z, 399, case.lora.prompt_embeds), expected, rtol=0, atol=1e-5)


def test_scaling_and_shift_are_applied_and_taken_away() -> None:
    plain = tiny_host()
    plain.vae.register_to_config(shift_factor=0.3, scaling_factor=2.0)
    host = DiffusersHost(plain.unet, plain.vae, plain.layout)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        mean = host.vae.encode(x).latent_dist.mean
        decoded = host.vae.decode(mean).sample
    torch.testing.assert_close(host.encode(x), (mean - 0.3) * 2.0)
    torch.testing.assert_close(host.decode(host.encode(x)), decoded, rtol=0, atol=1e-5)


def test_half_precision_host_gives_float32_near_the_full_one() -> None:
    full, half = tiny_host(), tiny_host()
    half.unet.bfloat16()
    half.vae.bfloat16()
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    z, z_half = full.encode(x), half.encode(x)
    assert z_half.dtype == torch.float32
    assert not torch.equal(z, z_half)
    torch.testing.assert_close(z_half, z, rtol=0, atol=0.05 * z.abs().max().item())


def test_size_step_is_f_or_with_local_norms_the_whole_grid() -> None:
    host = tiny_host()
    assert (host.latent_factor, host.size_multiple_px) == (2, 2)
    replace_group_norms(host.unet)
    assert DiffusersHost(host.unet, host.vae, host.layout).size_multiple_px == 4


def test_missing_default_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelMismatchError, match=r"The embedded default is incomplete: there is no '.*small_base'"):
        load_default(weights=tmp_path)
