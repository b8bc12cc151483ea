"""The patch grid: hardness, shielding, cutting and mixing, against loops and by their invariants."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from phnet_monai.transforms import (
    draw_keep_mask,
    expand_patches,
    hardest_patches,
    mix_patches,
    patch_all,
    patch_hardness,
    patch_mean,
    shielded_patch_count,
    shielded_patches,
)
from phnet_monai.transforms.patches import shielded_patch_counts


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_mask(shape: tuple[int, ...], share: float, seed: int) -> Tensor:
    return torch.rand(shape, generator=seeded(seed)) < share


# hardness, Eq. 4


@pytest.mark.parametrize(
    ("shape", "grid"), [((2, 2, 12, 12), 3), ((1, 3, 8, 20), 4), ((3, 5, 15, 10), 5), ((1, 2, 4, 6), 1)]
)
def test_hardness_equals_the_loop(reference, shape, grid):
    probs = torch.randn(shape, generator=seeded(0)).mul(3).softmax(dim=1)
    probs[0, :, 0, 0] = torch.eye(shape[1])[0]  # a certain pixel: 0 log 0
    expected = torch.from_numpy(reference.hardness(probs.double().numpy(), grid)).float()
    torch.testing.assert_close(patch_hardness(probs, grid), expected)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_hardness_of_uniform_and_certain_predictions(classes):
    uniform = torch.full((2, classes, 6, 9), 1 / classes)
    torch.testing.assert_close(patch_hardness(uniform, 3), torch.ones(2, 3, 3))
    assert patch_hardness(uniform, 3).max() <= 1
    certain = torch.nn.functional.one_hot(torch.arange(54).view(1, 6, 9) % classes, classes).permute(0, 3, 1, 2)
    assert torch.equal(patch_hardness(certain.float(), 3), torch.zeros(1, 3, 3))


def test_hardness_finds_the_uncertain_patch():
    probs = torch.tensor([0.99, 0.01]).view(1, 2, 1, 1).repeat(1, 1, 8, 12)
    probs[:, :, 4:6, 9:12] = 0.5  # patch in row 2, column 3 of a 4 x 4 grid of 2 x 3 pixels
    assert patch_hardness(probs, 4).flatten().argmax() == 2 * 4 + 3


def test_hardness_of_half_precision_is_computed_in_float32():
    probs = torch.randn(1, 2, 8, 8, generator=seeded(1)).softmax(dim=1).bfloat16()
    assert patch_hardness(probs, 2).dtype == torch.float32
    torch.testing.assert_close(patch_hardness(probs, 2), patch_hardness(probs.float(), 2))


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 1, 8, 8)])
def test_hardness_needs_probabilities_of_two_classes(shape):
    with pytest.raises(ValueError, match=r"expected \(B, C, H, W\) with C >= 2"):
        patch_hardness(torch.ones(shape), 2)


@pytest.mark.parametrize("grid", [0, 3, 8, 9])
def test_a_grid_that_does_not_divide_is_refused(grid):
    with pytest.raises(ValueError, match=rf"grid_size {grid} does not divide the image of 8 x 12 pixels"):
        patch_hardness(torch.full((1, 2, 8, 12), 0.5), grid)


# splitting and merging


@pytest.mark.parametrize("size", [(12, 12), (8, 20), (40, 4)])
def test_merge_of_split_is_the_identity(size):
    patches = torch.randn(3, 4, 4, generator=seeded(2))
    torch.testing.assert_close(patch_mean(expand_patches(patches, size), 4), patches)


def test_expand_puts_patches_where_slicing_finds_them():
    patches = torch.arange(9).view(1, 3, 3)
    pixels = expand_patches(patches, (6, 12))
    for row in range(3):
        for column in range(3):
            assert (pixels[0, 2 * row : 2 * row + 2, 4 * column : 4 * column + 4] == 3 * row + column).all()


def test_patch_all_is_false_for_one_padded_pixel():
    valid = torch.ones(2, 6, 8, dtype=torch.bool)
    valid[0, 5, 0] = False
    valid[1, :, 6:] = False
    expected = torch.ones(2, 2, 2, dtype=torch.bool)
    expected[0, 1, 0] = False
    expected[1, :, 1] = False
    assert torch.equal(patch_all(valid, 2), expected)


def test_expand_refuses_pixels_that_the_grid_does_not_divide():
    with pytest.raises(ValueError, match="3 x 3 patches does not divide 7 x 9"):
        expand_patches(torch.zeros(1, 3, 3), (7, 9))


# the shielded number, Eq. 5


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0), (10, 6), (100, 60), (199, 119), (200, 120)])
def test_shielded_number_of_the_paper(epoch, expected):
    assert shielded_patch_count(epoch, 200, 0.3, 20) == expected


@pytest.mark.parametrize("beta", ["0", "0.05", "0.1", "0.15", "0.2", "0.3", "0.35", "0.4", "0.7", "0.9", "1"])
@pytest.mark.parametrize(("epochs", "grid"), [(200, 20), (200, 10), (60, 16), (7, 9)])
def test_shielded_number_is_the_exact_floor_at_every_epoch(reference, beta, epochs, grid):
    counts = [shielded_patch_count(epoch, epochs, float(beta), grid) for epoch in range(epochs + 1)]
    assert counts == [reference.shielded_count(Fraction(beta), epoch, epochs, grid) for epoch in range(epochs + 1)]


def test_a_fraction_of_an_epoch_counts():
    assert shielded_patch_count(0.5, 1, 1.0, 10) == 50


def test_shielded_number_refuses_what_is_out_of_range():
    with pytest.raises(ValueError, match="shield_ratio is 1.2"):
        shielded_patch_count(1, 10, 1.2, 4)
    with pytest.raises(ValueError, match="epoch is 11, expected 0 ... max_epochs = 10"):
        shielded_patch_count(11, 10, 0.3, 4)


@pytest.mark.parametrize("beta", ["0", "0.1", "0.3", "0.7", "1"])
@pytest.mark.parametrize("epochs", [7, 10, 200])
def test_shielded_numbers_of_valid_patches_equal_the_loop(beta, epochs):
    valid = random_mask((5, 20, 20), 0.7, 8)
    valid[0], valid[1] = True, False
    for epoch in range(epochs + 1):
        expected = []
        for image in valid:
            patches = 0
            for row in image:
                for inside in row:
                    patches += int(inside)
            expected.append(math.floor(Fraction(beta) * Fraction(epoch, epochs) * patches))
        counts = shielded_patch_counts(epoch, epochs, float(beta), valid)
        assert counts.dtype == torch.int64
        assert counts.tolist() == expected
        assert expected[0] == shielded_patch_count(epoch, epochs, float(beta), 20)
        assert expected[1] == 0


def test_shielded_numbers_of_valid_patches_refuse_what_is_out_of_range():
    with pytest.raises(ValueError, match="shield_ratio is 1.2"):
        shielded_patch_counts(1, 10, 1.2, torch.ones(1, 2, 2, dtype=torch.bool))


# the hardest patches


@pytest.mark.parametrize("count", [0, 1, 7, 24, 25])
def test_hardest_patches_equal_the_sorted_list(reference, count):
    hardness = torch.rand(4, 5, 5, generator=seeded(3))
    chosen = hardest_patches(hardness, count)
    assert torch.equal(chosen, torch.from_numpy(reference.hardest(hardness.numpy(), count)))
    assert chosen.sum(dim=(1, 2)).tolist() == [count] * 4


def test_ties_go_to_the_first_patches_in_reading_order():
    hardness = torch.zeros(2, 3, 3)
    hardness[1, 2, 2] = 1.0
    chosen = hardest_patches(hardness, 4).flatten(1)
    assert chosen[0].nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert chosen[1].nonzero().flatten().tolist() == [0, 1, 2, 8]
    many = hardest_patches(torch.full((1, 20, 20), 0.5), 120).flatten()  # the paper's grid, before anything is learnt
    assert many.nonzero().flatten().tolist() == list(range(120))


@pytest.mark.parametrize("seed", range(5))
def test_padded_patches_are_never_chosen(seed):
    hardness = torch.rand(6, 4, 4, generator=seeded(seed))
    valid = random_mask((6, 4, 4), 0.5, seed + 100)
    hardness[~valid] += 1  # the padding looks hardest
    chosen = hardest_patches(hardness, 8, valid)
    assert not (chosen & ~valid).any()
    assert chosen.sum(dim=(1, 2)).tolist() == [min(8, int(v.sum())) for v in valid]
    for row, inside, picked in zip(hardness, valid, chosen, strict=True):  # what was chosen is harder than what was not
        rest = row[inside & ~picked]
        assert len(rest) == 0 or row[picked].min() >= rest.max()


@pytest.mark.parametrize("masked", [False, True])
def test_every_image_may_have_a_number_of_its_own(reference, masked):
    hardness = torch.rand(5, 4, 4, generator=seeded(9)).mul(8).floor()  # with ties
    valid = random_mask((5, 4, 4), 0.6, 10) if masked else None
    counts = [0, 3, 7, 15, 16]
    chosen = hardest_patches(hardness, torch.tensor(counts), valid)
    for i, count in enumerate(counts):
        alone = None if valid is None else valid[i : i + 1]
        assert torch.equal(chosen[i : i + 1], hardest_patches(hardness[i : i + 1], count, alone))
        if valid is None:
            expected = reference.hardest(hardness[i : i + 1].numpy(), count)
            assert torch.equal(chosen[i : i + 1], torch.from_numpy(expected))
    for mode in ("hard", "easy", "random"):
        shielded = shielded_patches(hardness, torch.tensor(counts), mode, generator=seeded(1))
        assert shielded.sum(dim=(1, 2)).tolist() == counts


def test_nothing_is_chosen_where_all_is_padding():
    assert not hardest_patches(torch.rand(1, 3, 3), 5, torch.zeros(1, 3, 3, dtype=torch.bool)).any()


@pytest.mark.parametrize("count", [-1, 10])
def test_hardest_patches_refuse_an_impossible_count(count):
    with pytest.raises(ValueError, match=rf"count is {count}, expected 0 ... 9"):
        hardest_patches(torch.zeros(1, 3, 3), count)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (torch.tensor([3, 10]), r"count is \[3, 10\], expected 0 ... 9"),
        (torch.tensor([-1, 0]), r"count is \[-1, 0\], expected 0 ... 9"),
        (torch.tensor([1, 2, 3]), r"count has shape \(3,\) and type torch.int64, expected int64 \(2,\)"),
        (torch.tensor([1.0, 2.0]), r"count has shape \(2,\) and type torch.float32, expected int64 \(2,\)"),
    ],
)
def test_impossible_numbers_of_images_are_refused(count, message):
    with pytest.raises(ValueError, match=message):
        hardest_patches(torch.zeros(2, 3, 3), count)


def test_shield_modes():
    hardness = torch.rand(2, 6, 6, generator=seeded(5))
    valid = random_mask((2, 6, 6), 0.8, 6)
    hard = shielded_patches(hardness, 9, "hard", valid=valid)
    easy = shielded_patches(hardness, 9, "easy", valid=valid)
    assert torch.equal(hard, hardest_patches(hardness, 9, valid))
    for i in range(2):
        assert hardness[i][easy[i]].max() <= hardness[i][valid[i] & ~easy[i]].min()
        assert hardness[i][hard[i]].min() >= hardness[i][valid[i] & ~hard[i]].max()
    random = shielded_patches(hardness, 9, "random", valid=valid, generator=seeded(7))
    assert random.sum(dim=(1, 2)).tolist() == [9, 9]
    assert not (random & ~valid).any()
    assert torch.equal(random, shielded_patches(hardness, 9, "random", valid=valid, generator=seeded(7)))
    assert not torch.equal(random, shielded_patches(hardness, 9, "random", valid=valid, generator=seeded(8)))
    assert not shielded_patches(hardness, 9, "none").any()
    with pytest.raises(ValueError, match="shield mode is 'hardest'"):
        shielded_patches(hardness, 9, "hardest")  # type: ignore[arg-type]


# the keep mask


@pytest.mark.parametrize("seed", range(10))
def test_shielded_patches_are_never_cut(seed):
    shielded = random_mask((8, 10, 10), seed / 10, seed)
    keep = draw_keep_mask(shielded, (0.1, 1.0), seeded(seed))
    assert not (shielded & ~keep).any()


@pytest.mark.parametrize("bounds", [(0.1, 0.5), (0.0, 0.2), (0.4, 0.4), (0.0, 1.0)])
def test_number_of_cut_patches_lies_within_the_bounds(bounds):
    shielded = torch.zeros(300, 10, 10, dtype=torch.bool)
    shielded[:, 0] = True  # 10 of 100
    cut = (~draw_keep_mask(shielded, bounds, seeded(0))).sum(dim=(1, 2))
    low, high = (round(100 * bound) for bound in bounds)
    assert cut.min() >= low
    assert cut.max() <= min(high, 90)
    middle = (low + min(high, 90)) / 2  # uniform, so the mean is near the middle and both ends are met
    assert cut.float().mean() == pytest.approx(middle, abs=1 + 0.08 * (high - low))
    assert cut.max() - cut.min() >= 0.9 * (min(high, 90) - low)


@pytest.mark.parametrize("percent", range(101))
def test_a_fixed_ratio_cuts_exactly_that_many(percent):
    shielded = torch.zeros(2, 10, 10, dtype=torch.bool)
    keep = draw_keep_mask(shielded, (percent / 100, percent / 100), seeded(percent))
    assert (~keep).sum(dim=(1, 2)).tolist() == [percent] * 2


def test_cuts_are_clipped_where_few_patches_are_unshielded():
    shielded = torch.ones(3, 4, 4, dtype=torch.bool)
    shielded[1, 2, 3] = False
    shielded[2, :2] = False
    keep = draw_keep_mask(shielded, (0.9, 1.0), seeded(0))
    assert torch.equal(~keep, ~shielded)  # 0, 1 and 8 patches could be cut, and were


def test_every_unshielded_patch_is_cut_equally_often():
    shielded = torch.zeros(4000, 4, 4, dtype=torch.bool)
    shielded[:, 0, :2] = True
    share = (~draw_keep_mask(shielded, (0.5, 0.5), seeded(1))).float().mean(dim=0)
    unshielded = share.flatten()[2:]
    assert share.flatten()[:2].tolist() == [0, 0]
    torch.testing.assert_close(unshielded, torch.full((14,), 8 / 14), atol=0.04, rtol=0)  # 5 sigma


def test_images_of_a_batch_get_masks_of_their_own():
    keep = draw_keep_mask(torch.zeros(2, 10, 10, dtype=torch.bool), (0.3, 0.3), seeded(2))
    assert not torch.equal(keep[0], keep[1])


def test_the_generator_decides_alone():
    shielded = random_mask((4, 8, 8), 0.2, 0)
    first = draw_keep_mask(shielded, generator=seeded(3))
    torch.rand(5)  # the global state does not matter
    assert torch.equal(first, draw_keep_mask(shielded, generator=seeded(3)))
    assert not torch.equal(first, draw_keep_mask(shielded, generator=seeded(4)))


@pytest.mark.parametrize("bounds", [(-0.1, 0.5), (0.6, 0.5), (0.1, 1.1)])
def test_impossible_cut_ratios_are_refused(bounds):
    with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
        draw_keep_mask(torch.zeros(1, 2, 2, dtype=torch.bool), bounds)


# mixing, Eqs. 6 and 7


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (4, 3, 6, 12), (2, 9, 15), (1, 1, 6, 6)])
def test_mixing_equals_the_loop(reference, shape):
    tensor = torch.randn(shape, generator=seeded(0))
    keep = random_mask((shape[0], 3, 3) if shape[-1] % 3 == 0 else (shape[0], 4, 4), 0.6, 1)
    expected = torch.from_numpy(reference.mix(tensor.numpy(), keep.numpy()))
    assert torch.equal(mix_patches(tensor, keep), expected)


def test_every_pixel_comes_from_its_own_place_in_this_image_or_the_next():
    batch, size = 5, 24
    image = torch.arange(batch * size * size).view(batch, 1, size, size)  # each value tells image and place
    keep = random_mask((batch, 6, 6), 0.5, 2)
    mixed = mix_patches(image, keep)
    assert torch.equal(mixed % size**2, image % size**2)
    source = mixed[:, 0] // size**2
    own = torch.arange(batch).view(-1, 1, 1)
    kept = expand_patches(keep, (size, size))
    assert torch.equal(source, torch.where(kept, own, (own + 1) % batch))


def test_the_last_image_takes_from_the_unmixed_first():
    image = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1).repeat(1, 1, 4, 4)
    keep = torch.zeros(3, 2, 2, dtype=torch.bool)  # all patches are cut
    assert mix_patches(image, keep)[:, 0, 0, 0].tolist() == [2, 3, 1]
    assert image[:, 0, 0, 0].tolist() == [1, 2, 3]  # untouched


def test_image_label_and_valid_move_alike():
    generator = seeded(4)
    image = torch.rand(4, 1, 20, 30, generator=generator)
    keep = draw_keep_mask(torch.zeros(4, 5, 5, dtype=torch.bool), (0.2, 0.8), generator)
    mixed = mix_patches(image, keep)
    label, valid = (image[:, 0] > 0.5).long(), image[:, 0] < 0.9
    assert torch.equal(mix_patches(label, keep), (mixed[:, 0] > 0.5).long())
    assert torch.equal(mix_patches(valid, keep), mixed[:, 0] < 0.9)
    assert mix_patches(label, keep).dtype == torch.int64
    assert mix_patches(valid, keep).dtype == torch.bool


def test_keeping_all_is_the_identity():
    image = torch.rand(3, 2, 9, 9, generator=seeded(5))
    mixed = mix_patches(image, torch.ones(3, 3, 3, dtype=torch.bool))
    assert torch.equal(mixed, image)
    assert mixed.data_ptr() != image.data_ptr()


def test_mixing_twice_with_complementary_masks_covers_both_images():
    image = torch.rand(2, 1, 8, 8, generator=seeded(6))
    keep = random_mask((2, 4, 4), 0.5, 7)
    total = mix_patches(image, keep) + mix_patches(image, ~keep)
    torch.testing.assert_close(total, image + image.roll(-1, 0))


def test_mixing_refuses_masks_of_another_batch_or_grid():
    with pytest.raises(ValueError, match="3 images but 2 keep masks"):
        mix_patches(torch.zeros(3, 1, 4, 4), torch.ones(2, 2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="does not divide 4 x 4"):
        mix_patches(torch.zeros(2, 1, 4, 4), torch.ones(2, 3, 3, dtype=torch.bool))
