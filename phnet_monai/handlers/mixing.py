"""Views moved as a whole: image, target, weight and valid area stay together in every mix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from phnet_monai.engines.step import Step, View
from phnet_monai.transforms.boxes import paste

MOVED = ("image", "target", "weight", "valid")


def take(view: View, index: Tensor) -> View:
    """The view's images in another order, or some of them: index int64 (B',)."""
    index = index.to(view.image.device)
    return _replaced(view, {name: getattr(view, name)[index] for name in MOVED})


def paste_view(view: View, other: View, keep: Tensor) -> View:
    """`view` where keep (B, H, W), `other` elsewhere, in all that belongs to a pixel."""
    keep = keep.to(view.image.device)
    return _replaced(view, {name: paste(getattr(view, name), getattr(other, name), keep) for name in MOVED})


def _replaced(view: View, moved: dict[str, Any]) -> View:
    return replace(view, **moved)


def log_pseudo_labels(step: Step, view: View, kept: Tensor) -> None:
    """Scalars `confident_pixels` (share of valid pixels in `kept`, bool (B, H, W)) and `pseudo_label_lesion`."""
    pixels = view.valid.sum().clamp(min=1)
    step.scalars.update(
        confident_pixels=(kept & view.valid).sum() / pixels,
        pseudo_label_lesion=((view.target > 0) & view.valid).sum() / pixels,
    )
