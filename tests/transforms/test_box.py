"""Plain CutMix rectangles."""

import pytest
import torch

from phnet_monai.transforms import draw_keep_box, mix_patches


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
