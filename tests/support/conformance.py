"""What every host must do, as tests: an adapter's test class inherits these and gives the fixtures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.fakes.networks import TinySd, tiny_sd, with_vae_pairs
from torch import Tensor

from dfosd_core.attach import attached
from dfosd_core.errors import BaseModelMismatchError, LoraMismatchError
from dfosd_core.lora.file import DfosdLora
from dfosd_core.lora.parts import PIXEL, SEMANTIC, scaled
from dfosd_core.one_step import predict_z_sr
from dfosd_core.settings import UpscaleSettings

TOLERANCE = 1e-5
"""Largest difference of a float32 latent (values of about 1) from the reference's."""
NAMES = ("DFOSD", "ComfyUI", "AUTOMATIC1111", "Forge", "reForge")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostCase:
    """A host with what its tests need to know of it."""

    host: Any
    lora: DfosdLora
    """Fits the host and changes its prediction a lot."""
    weights: Callable[[], str]
    """A hash over the bits of every weight the host could change."""
    writes_weights: bool = True
    """Whether the LoRA is in the weights inside the `lora` block. Else it acts by hooks, or on a clone's weights."""
    folds: bool = False
    """Whether constants are folded inside the `lora` block, which rounds elsewhere than the base alone."""
    leaves_gradients: bool = False
    """Whether it leaves it to the program around it, which runs nodes in inference mode, to record no gradient."""
    merged_reference: Callable[[Tensor, int, Tensor, float], Tensor]
    """(z, t, prompt_embeds, strength) -> eps of the base with the LoRA added by other means than the
    host's.
    """


class HostConformance:
    """Subclasses give the fixture `case`, one for the whole class: each test leaves the host as it was, or
    fails.
    """

    @pytest.fixture
    def x(self, case: HostCase) -> Tensor:
        size = 2 * case.host.size_multiple_px
        return torch.rand(2, 3, 2 * size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1

    @pytest.fixture
    def z(self, case: HostCase, x: Tensor) -> Tensor:
        return case.host.encode(x)

    def predict(self, case: HostCase, z: Tensor) -> Tensor:
        return case.host.predict_eps(z, case.lora.metadata.timestep, case.lora.prompt_embeds)

    def test_encode_and_decode_keep_the_shapes_and_gives_floats(self, case: HostCase, x: Tensor, z: Tensor) -> None:
        f = case.host.layout.latent_factor
        channels = case.lora.metadata.base_layout.latent_channels
        assert z.shape == (2, channels, x.shape[2] // f, x.shape[3] // f)
        assert case.host.decode(z).shape == x.shape
        assert z.is_floating_point()
        assert bool(z.isfinite().all())

    def test_encode_is_deterministic_and_each_image_its_own(self, case: HostCase, x: Tensor, z: Tensor) -> None:
        assert torch.equal(case.host.encode(x), z)
        torch.testing.assert_close(case.host.encode(x[1:]), z[1:], rtol=0, atol=TOLERANCE)

    def test_no_gradient_is_recorded(self, case: HostCase, x: Tensor, z: Tensor) -> None:
        x, z = (given.clone().requires_grad_() for given in (x, z))
        for result in (case.host.encode(x), case.host.decode(z), self.predict(case, z)):
            assert case.leaves_gradients or not result.requires_grad

    def test_latents_are_scaled_so_that_decode_inverts_encode_scaling(self, case: HostCase, z: Tensor) -> None:
        assert not torch.allclose(case.host.decode(z), case.host.decode(2 * z), atol=1e-3)

    def test_predict_eps_keeps_the_shape_and_repeats_the_prompt(self, case: HostCase, z: Tensor) -> None:
        eps = self.predict(case, z)
        assert eps.shape == z.shape
        torch.testing.assert_close(self.predict(case, z[1:]), eps[1:], rtol=0, atol=TOLERANCE * eps.abs().max().item())

    def test_prompt_and_timestep_matter(self, case: HostCase, z: Tensor) -> None:
        t, prompt_embeds = case.lora.metadata.timestep, case.lora.prompt_embeds
        eps = case.host.predict_eps(z, t, prompt_embeds)
        assert not torch.allclose(eps, case.host.predict_eps(z, t, -prompt_embeds), atol=1e-3)
        assert not torch.allclose(eps, case.host.predict_eps(z, t // 2, prompt_embeds), atol=1e-3)

    def test_any_multiple_of_the_size_step_runs(self, case: HostCase) -> None:
        step = case.host.size_multiple_px
        for height, width in ((step, step), (3 * step, step), (step, 5 * step)):
            z = case.host.encode(torch.zeros(1, 3, height, width))
            z_sr = predict_z_sr(z, self.predict(case, z), case.lora.metadata.timestep)
            assert case.host.decode(z_sr).shape == (1, 3, height, width)

    def test_strength_zero_is_the_base_bit_for_bit(self, case: HostCase, z: Tensor) -> None:
        base, weights = self.predict(case, z), case.weights()
        with case.host.lora(case.lora, 0.0):
            torch.testing.assert_close(self.predict(case, z), base, rtol=0, atol=TOLERANCE if case.folds else 0)
            assert case.weights() == weights

    @pytest.mark.parametrize("strength", [0.5, 1.0, -0.3])
    def test_strength_is_the_merged_reference(self, case: HostCase, z: Tensor, strength: float) -> None:
        base = self.predict(case, z)
        expected = case.merged_reference(z, case.lora.metadata.timestep, case.lora.prompt_embeds, strength)
        with case.host.lora(case.lora, strength):
            eps = self.predict(case, z)
        size = expected.abs().max().item()
        torch.testing.assert_close(eps, expected, rtol=0, atol=TOLERANCE * size)
        assert (eps - base).abs().max().item() > 1000 * TOLERANCE * size

    def test_a_lora_of_two_parts_acts_in_two_passes(self, case: HostCase, z: Tensor) -> None:
        rank = case.lora.metadata.rank
        metadata = dataclasses.replace(case.lora.metadata, parts={PIXEL: rank // 2, SEMANTIC: rank - rank // 2})
        lora, before = dataclasses.replace(case.lora, metadata=metadata), case.weights()
        with case.host.lora(scaled(lora, {SEMANTIC: 0.0}), 1.0):
            p_pix = self.predict(case, z)
        p_full = case.merged_reference(z, metadata.timestep, lora.prompt_embeds, 1.0)
        expected = 1.4 * p_pix + 0.6 * (p_full - p_pix)
        with attached(case.host, lora, UpscaleSettings(strength=0.6, pixel_strength=1.4)) as host:
            for _ in range(2):  # the first call ends with the other LoRA on than it began with
                eps = host.predict_eps(z, metadata.timestep, lora.prompt_embeds)
                torch.testing.assert_close(eps, expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())
        assert (p_full - p_pix).abs().max() > 1000 * TOLERANCE * p_full.abs().max()
        assert case.weights() == before

    def test_weights_come_back_bit_for_bit_after_success(self, case: HostCase, z: Tensor) -> None:
        before, base = case.weights(), self.predict(case, z)
        with case.host.lora(case.lora, 1.0):
            assert (case.weights() != before) == case.writes_weights
        assert case.weights() == before
        assert torch.equal(self.predict(case, z), base)

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError])
    def test_weights_come_back_bit_for_bit_after_an_error(self, case: HostCase, error: type[BaseException]) -> None:
        before = case.weights()
        with pytest.raises(error), case.host.lora(case.lora, 1.0):
            raise error
        assert case.weights() == before

    def test_lora_works_inside_inference_mode(self, case: HostCase, z: Tensor) -> None:
        before = case.weights()
        with case.host.lora(case.lora, 1.0):
            outside = self.predict(case, z)
        with torch.inference_mode(), case.host.lora(case.lora, 1.0):
            assert torch.equal(self.predict(case, z), outside)
        assert case.weights() == before

    def test_second_lora_is_refused(self, case: HostCase) -> None:
        before = case.weights()
        with case.host.lora(case.lora, 1.0), pytest.raises(LoraMismatchError), case.host.lora(case.lora, 1.0):
            pass
        assert case.weights() == before

    @pytest.mark.parametrize(
        "change",
        [
            {"context_dim": 77},
            {"prediction_type": "v_prediction"},
            {"in_channels": 9},
            {"latent_channels": 5},
        ],
    )
    def test_other_base_is_refused_and_nothing_changed(self, case: HostCase, change: dict[str, Any]) -> None:
        layout = dataclasses.replace(case.lora.metadata.base_layout, **change)
        metadata = dataclasses.replace(case.lora.metadata, base_layout=layout)
        foreign = dataclasses.replace(case.lora, metadata=metadata, prompt_embeds=torch.zeros(1, 7, layout.context_dim))
        before = case.weights()
        with pytest.raises(BaseModelMismatchError, match="was trained for"), case.host.lora(foreign, 1.0):
            pass
        assert case.weights() == before

    def test_incomplete_fit_is_refused_and_nothing_changed(self, case: HostCase) -> None:
        pairs = dict(case.lora.pairs)
        first = next(iter(pairs))
        pairs["lora_unet_nowhere"] = pairs.pop(first)
        before = case.weights()
        misfit = dataclasses.replace(case.lora, pairs=pairs)
        message = "1 with no such layer: lora_unet_nowhere"
        with pytest.raises(LoraMismatchError, match=message), case.host.lora(misfit, 1.0):
            pass
        assert case.weights() == before

    def test_layout_is_the_loras_and_the_name_says_whose_host_it_is(self, case: HostCase) -> None:
        assert case.host.layout == case.lora.metadata.base_layout
        assert case.host.name in NAMES

    def test_auto_tiles_leave_room_for_their_overlaps(self, case: HostCase) -> None:
        for size_px in (64, 512, 2048, 8192):
            tiles = case.host.auto_tiles(size_px, size_px)
            for stage in (tiles.encode, tiles.unet, tiles.decode):
                assert stage.tile == 0 or 0 < stage.overlap <= stage.tile // 2
        assert case.host.auto_tiles(8192, 8192).unet.tile > 0


class CheckpointConformance(HostConformance):
    """For hosts over a checkpoint of another program: the fixtures `sd`, the case's checkpoint, and `open_host`."""

    def test_latents_and_images_are_those_of_our_vae(self, case: HostCase, sd: TinySd, x: Tensor) -> None:
        z = case.host.encode(x)
        torch.testing.assert_close(z, sd.encoded(x), rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(case.host.decode(z), sd.decoded(z), rtol=0, atol=TOLERANCE)

    def test_layers_of_the_vae_take_part(self, case: HostCase, sd: TinySd, x: Tensor) -> None:
        lora, before = with_vae_pairs(sd.lora, sd.our_vae), case.weights()
        with case.host.lora(lora, 1.0):
            z = case.host.encode(x)
            image = case.host.decode(z)
        expected = sd.encoded(x, lora)
        assert (expected - sd.encoded(x)).abs().max() > 1000 * TOLERANCE
        torch.testing.assert_close(z, expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())
        expected = sd.decoded(z, lora)
        torch.testing.assert_close(image, expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())
        assert case.weights() == before

    def test_v_predicting_base_gives_eps(self, open_host: Callable[[TinySd], Any]) -> None:
        sd = tiny_sd("v_prediction")
        z, embeds = torch.randn(1, 4, 8, 8), sd.lora.prompt_embeds
        host = open_host(sd)
        assert host.layout == sd.layout
        expected = sd.merged_eps(z, 399, embeds, 1.0)
        with host.lora(sd.lora, 1.0):
            eps = host.predict_eps(z, 399, embeds)
        torch.testing.assert_close(eps, expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())

    def test_no_hook_is_left(self, case: HostCase, sd: TinySd, z: Tensor) -> None:
        with case.host.lora(case.lora, 1.0):
            self.predict(case, z)
        assert sd.hooks() == 0
