"""What holds for every patch grid, whatever its size and whatever is shielded, cut or mixed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phnet_monai.transforms import (
    draw_keep_mask,
    hardest_patches,
    mix_patches,
    patch_hardness,
    shielded_patch_count,
)
from phnet_monai.transforms.patches import expand_patches, patch_all, patch_mean

SAME = settings(derandomize=True, deadline=None, max_examples=80, database=None)


@st.composite
def grids(draw: st.DrawFn) -> tuple[int, int, int, int, torch.Generator]:
    """(B, G, height and width of a patch, generator)."""
    numbers = (draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    return *numbers, torch.Generator().manual_seed(draw(st.integers(0, 2**31)))


def random_bool(shape: tuple[int, ...], share: float, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) < share


@given(grid=grids())
@SAME
def test_what_is_expanded_and_gathered_again_is_the_same(grid: tuple) -> None:
    batch, side, height, width, generator = grid
    patches = torch.randint(0, 1000, (batch, side, side), generator=generator).float()
    pixels = expand_patches(patches, (side * height, side * width))
    assert pixels.shape == (batch, side * height, side * width)
    assert torch.equal(patch_mean(pixels, side), patches)
    mask = random_bool((batch, side, side), 0.5, generator)
    assert torch.equal(patch_all(expand_patches(mask, pixels.shape[-2:]), side), mask)


@given(grid=grids())
@SAME
def test_every_pixel_counts_once_in_its_patch(grid: tuple) -> None:
    batch, side, height, width, generator = grid
    pixels = torch.randint(0, 100, (batch, side * height, side * width), generator=generator).double()
    total = patch_mean(pixels, side).double().sum(dim=(1, 2)) * height * width
    torch.testing.assert_close(total, pixels.sum(dim=(1, 2)), rtol=1e-5, atol=1e-3)


@given(grid=grids(), share=st.floats(0, 1))
@SAME
def test_mixing_keeps_every_pixel(grid: tuple, share: float) -> None:
    """A pixel that one mix lacks is in the mix with the opposite mask, at its place; nothing else is made up."""
    batch, side, height, width, generator = grid
    images = torch.randint(0, 256, (batch, 2, side * height, side * width), generator=generator)
    keep = random_bool((batch, side, side), share, generator)
    mixed, opposite = mix_patches(images, keep), mix_patches(images, ~keep)
    both = torch.stack([images, images.roll(-1, dims=0)]).sort(dim=0).values
    assert torch.equal(torch.stack([mixed, opposite]).sort(dim=0).values, both)
    assert torch.equal(mix_patches(images, torch.ones_like(keep)), images)
    assert torch.equal(mix_patches(images[:, 0], keep), mixed[:, 0])  # labels go where their images go
    whole = expand_patches(keep, images.shape[-2:]).unsqueeze(1).expand_as(images)
    assert torch.equal(mixed[whole], images[whole])


@given(grid=grids(), data=st.data())
@SAME
def test_exactly_that_many_are_shielded_and_none_is_cut(grid: tuple, data: st.DataObject) -> None:
    batch, side, height, width, generator = grid
    probs = torch.rand(batch, 2, side * height, side * width, generator=generator).softmax(dim=1)
    hardness = patch_hardness(probs, side)
    assert bool((hardness >= 0).all())
    assert bool((hardness <= 1).all())
    count = data.draw(st.integers(0, side * side))
    valid = random_bool((batch, side, side), data.draw(st.floats(0, 1)), generator)
    shielded = hardest_patches(hardness, count)
    assert shielded.sum(dim=(1, 2)).tolist() == [count] * batch
    among = hardest_patches(hardness, count, valid)
    assert among.sum(dim=(1, 2)).tolist() == [min(count, number) for number in valid.sum(dim=(1, 2)).tolist()]
    assert not bool((among & ~valid).any())
    if 0 < count < side * side:
        for one, chosen in zip(hardness, shielded, strict=True):
            assert one[chosen].min() >= one[~chosen].max()
    low = data.draw(st.floats(0, 1))
    high = data.draw(st.floats(low, 1))
    keep = draw_keep_mask(shielded, (low, high), generator)
    assert bool(keep[shielded].all())
    cut = (~keep).sum(dim=(1, 2))
    most = min(high * side**2 * (1 + 1e-5), side**2 - count)
    least = min(int(low * side**2 * (1 - 1e-5)), side**2 - count)
    assert bool((cut <= most).all())
    assert bool((cut >= least).all())


@given(st.integers(1, 400), st.floats(0, 1), st.integers(1, 40), st.data())
@SAME
def test_the_number_of_shielded_patches_grows_to_its_share(
    max_epochs: int, ratio: float, side: int, data: st.DataObject
) -> None:
    epoch = data.draw(st.integers(0, max_epochs))
    count = shielded_patch_count(epoch, max_epochs, ratio, side)
    assert 0 <= count <= shielded_patch_count(max_epochs, max_epochs, ratio, side) <= side**2
    assert abs(count - ratio * epoch / max_epochs * side**2) <= 1
    assert shielded_patch_count(0, max_epochs, ratio, side) == 0
    assert shielded_patch_count(max_epochs, max_epochs, 1.0, side) == side**2


@given(grid=grids(), extra=st.integers(1, 5))
@SAME
def test_a_grid_that_does_not_divide_is_refused(grid: tuple, extra: int) -> None:
    batch, side, height, width, _ = grid
    if extra % side == 0:
        extra += 1
    if extra % side == 0:  # a grid of one divides everything
        return
    pixels = torch.zeros(batch, side * height + extra, side * width)
    with pytest.raises(ValueError, match="does not divide"):
        patch_mean(pixels, side)
