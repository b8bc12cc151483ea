"""Generator and discriminator of small grey images."""

from __future__ import annotations

import math

import pytest
import torch

from phnet_monai.networks import DCGANDiscriminator, DCGANGenerator, initialise_dcgan

FEATURES = (12, 8)  # 16 pixels


def make(features=FEATURES, latent_size: int = 5, seed: int = 0) -> tuple[DCGANGenerator, DCGANDiscriminator]:
    networks = DCGANGenerator(latent_size, features), DCGANDiscriminator(features)
    draws = torch.Generator().manual_seed(seed)
    for network in networks:
        initialise_dcgan(network, draws)
    return networks


@pytest.mark.parametrize(("features", "size"), [((6,), 8), ((8, 4), 16), ((8, 6, 4), 32), ((8, 8, 4, 4, 2), 128)])
def test_every_width_doubles_the_side(features, size):
    generator, discriminator = make(features)
    assert generator.size == discriminator.size == size
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, 1, size, size)
    assert discriminator(images).shape == (3,)


def test_the_defaults_are_the_sources_128_pixels():
    assert DCGANGenerator().size == DCGANDiscriminator().size == 128
    assert DCGANGenerator().latent_size == 128


def test_images_are_in_the_unit_range_and_fill_it():
    generator, _ = make()
    first = generator(torch.randn(4, 5))
    assert first.std() < 0.1  # an untrained generator answers grey
    assert first.mean().item() == pytest.approx(0.5, abs=0.1)
    generator.last.weight.data.mul_(1e4)
    wild = generator(torch.randn(4, 5))
    assert (wild.min().item(), wild.max().item()) == (0, 1)


def test_the_discriminator_sees_black_and_white_as_opposites():
    """Grey 0.5 is its zero: without biases and statistics, nothing but the padding could tell its logit from 0."""
    _, discriminator = make()
    discriminator.eval()
    assert discriminator(torch.full((2, 1, 16, 16), 0.5)).abs().max() == 0
    assert discriminator(torch.ones(2, 1, 16, 16)).abs().min() > 0


def test_gradients_reach_every_weight_of_both():
    generator, discriminator = make()
    discriminator(generator(torch.randn(4, 5))).square().mean().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name


def test_the_seed_decides_the_weights():
    torch.manual_seed(1)
    first = make(seed=4)
    torch.manual_seed(2)
    again, other = make(seed=4), make(seed=5)
    for number in (0, 1):
        one, same, different = (pair[number].state_dict() for pair in (first, again, other))
        assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
        assert not all(torch.equal(tensor, different[name]) for name, tensor in one.items())


def test_first_weights_have_the_spread_of_dcgan():
    generator, discriminator = make((64, 32), latent_size=20)
    for network in (generator, discriminator):
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.5)
            elif isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
                spread = 0.02 / math.sqrt(2 * module.weight.numel())
                assert module.weight.std().item() == pytest.approx(0.02, abs=5 * spread)
                assert abs(module.weight.mean().item()) < 0.005
            if getattr(module, "bias", None) is not None:
                assert not module.bias.any()


def test_a_start_forgets_what_was_learnt():
    used, fresh = make(seed=3), make(seed=3)
    used[1](used[0](torch.randn(4, 5)))  # running statistics
    draws = torch.Generator().manual_seed(3)
    for network, other in zip(used, fresh, strict=True):
        initialise_dcgan(network, draws)
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 16, 16), (2, 1, 16, 15)])
def test_images_of_another_shape_are_refused(shape):
    _, discriminator = make()
    with pytest.raises(ValueError, match=r"DCGANDiscriminator: images have shape .*, expected \(B, 1, 16, 16\)"):
        discriminator(torch.zeros(shape))


@pytest.mark.parametrize("features", [(), (8, 0)])
@pytest.mark.parametrize("network", [DCGANGenerator, DCGANDiscriminator])
def test_bad_features_are_refused(network, features):
    with pytest.raises(ValueError, match=rf"{network.__name__}: features are .*expected .*positive widths"):
        network(features=features)


def test_a_bad_latent_size_is_refused():
    with pytest.raises(ValueError, match="DCGANGenerator: latent_size is 0"):
        DCGANGenerator(0)
