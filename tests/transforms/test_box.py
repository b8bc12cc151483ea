"""CutMix rectangles."""

import pytest
import scipy.stats
import torch

from phnet_monai.transforms import draw_aspect_box, draw_beta_box, draw_keep_box, draw_side_box, mix_patches, paste
from phnet_monai.transforms.draws import beta


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_image_loses_one_rectangle():
    keep = draw_keep_box(16, 40, (0.2, 0.4), generator())
    for mask in ~keep:
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        inside = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert inside.all()
        assert inside.sum() == mask.sum()


def test_the_area_follows_the_ratio():
    share = (~draw_keep_box(400, 100, (0.3, 0.3), generator())).float().mean(dim=(1, 2))
    assert share.mean() == pytest.approx(0.3, abs=0.005)
    assert (share - 0.3).abs().max() < 0.03  # rounding to pixels
    assert draw_keep_box(3, 20, (0.0, 0.0), generator()).all()
    assert not draw_keep_box(3, 20, (1.0, 1.0), generator()).any()


def test_same_seed_same_boxes_and_pixels_mix():
    keep = draw_keep_box(4, 12, (0.1, 0.5), generator(3))
    assert torch.equal(keep, draw_keep_box(4, 12, (0.1, 0.5), generator(3)))
    label = torch.arange(4).view(4, 1, 1).expand(4, 12, 12)
    mixed = mix_patches(label, keep)
    assert torch.equal(mixed, torch.where(keep, label, (label + 1) % 4))


def test_a_bad_ratio_is_refused():
    with pytest.raises(ValueError, match="cut_ratio"):
        draw_keep_box(2, 10, (0.5, 0.1))


def is_rectangle(mask: torch.Tensor) -> bool:
    return int(mask.sum()) == int(mask.any(dim=0).sum() * mask.any(dim=1).sum())


def extents(keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Heights and widths of the rectangles."""
    return (~keep).any(dim=2).sum(dim=1), (~keep).any(dim=1).sum(dim=1)


DRAWS = {
    "keep": lambda batch, source: draw_keep_box(batch, 60, (0.1, 0.5), source),
    "aspect": lambda batch, source: draw_aspect_box(batch, 60, generator=source),
    "beta": lambda batch, source: draw_beta_box(batch, 60, (4, 4), source),
    "side": lambda batch, source: draw_side_box(batch, 60, (0.1, 0.9), source),
}


@pytest.mark.parametrize("name", DRAWS)
def test_boxes_are_whole_repeatable_and_anywhere(name):
    keep = DRAWS[name](1600, generator(1))
    assert all(is_rectangle(~mask) for mask in keep[:200])
    assert torch.equal(keep, DRAWS[name](1600, generator(1)))
    reached = (~keep).float().mean(dim=0)
    assert reached.amax(dim=0).min() > 0  # the outermost columns and rows as well
    assert reached.amax(dim=1).min() > 0
    torch.testing.assert_close(reached, reached.flip(0), atol=0.08, rtol=0)  # no side is preferred
    torch.testing.assert_close(reached, reached.flip(1), atol=0.08, rtol=0)


def test_boxes_by_area_and_aspect():
    keep = draw_aspect_box(2000, 200, generator=generator())
    height, width = extents(keep)
    share = (~keep).float().mean(dim=(1, 2))
    assert 0.018 < share.min() < 0.03
    assert 0.38 < share.max() < 0.41
    assert share.mean() == pytest.approx(0.21, abs=0.01)  # uniform in 2-40 %, whatever the aspect
    aspect = height / width
    assert 0.27 < aspect.min() < 0.35
    assert 3 < aspect.max() < 3.7
    half = draw_aspect_box(2000, 20, area=(0.25, 0.25), aspect=(1, 1), probability=0.5, generator=generator())
    cut = (~half).sum(dim=(1, 2))
    assert set(cut.tolist()) == {0, 100}
    assert (cut > 0).float().mean() == pytest.approx(0.5, abs=0.04)


def test_boxes_by_beta_leave_its_share():
    share = draw_beta_box(3000, 100, (8, 2), generator()).float().mean(dim=(1, 2))
    assert share.mean() == pytest.approx(0.8, abs=0.01)
    assert share.var() == pytest.approx(8 * 2 / (10**2 * 11), abs=0.002)
    height, width = extents(draw_beta_box(50, 100, (4, 4), generator()))
    assert (height - width).abs().max() <= 1


def test_boxes_by_side():
    height, width = extents(draw_side_box(2000, 100, (0.1, 0.9), generator()))
    assert (height - width).abs().max() <= 1
    assert 9 <= height.min() <= 12
    assert 88 <= height.max() <= 91
    assert height.float().mean() == pytest.approx(50, abs=1.5)


def test_beta_is_the_beta_distribution():
    numbers = beta(20000, 8, 2, generator())
    expected = torch.distributions.Beta(8.0, 2.0)
    assert numbers.mean() == pytest.approx(float(expected.mean), abs=0.005)
    assert numbers.var() == pytest.approx(float(expected.variance), abs=0.001)
    quantiles = torch.tensor(scipy.stats.beta(8, 2).ppf([0.05, 0.5, 0.95]), dtype=torch.float32)
    torch.testing.assert_close(numbers.quantile(torch.tensor([0.05, 0.5, 0.95])), quantiles, atol=0.01, rtol=0)


def test_paste_takes_pixels_at_the_same_place():
    keep = draw_side_box(3, 8, (0.5, 0.5), generator())
    image, other = torch.rand(2, 3, 2, 8, 8, generator=generator())
    pasted = paste(image, other, keep)
    for index in range(3):
        for row in range(8):
            for column in range(8):
                source = image if keep[index, row, column] else other
                assert torch.equal(pasted[index, :, row, column], source[index, :, row, column])
    assert torch.equal(paste(image[:, 0], other[:, 0], keep), pasted[:, 0])
    with pytest.raises(ValueError, match="paste: shapes"):
        paste(image, other[:2], keep)
    with pytest.raises(ValueError, match="paste: shapes"):
        paste(image, other, keep[:1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: draw_aspect_box(2, 8, area=(0.0, 0.5)),
        lambda: draw_aspect_box(2, 8, area=(0.5, 1.5)),
        lambda: draw_aspect_box(2, 8, aspect=(0.0, 1.0)),
        lambda: draw_aspect_box(2, 8, probability=2),
        lambda: draw_beta_box(2, 8, (0, 2)),
        lambda: draw_beta_box(2, 8, (1.5, 2)),
        lambda: draw_side_box(2, 8, (0.9, 0.1)),
    ],
)
def test_bad_sizes_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
