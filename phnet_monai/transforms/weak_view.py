"""The weak view: horizontal flip, random scale, crop with padding (paper, Sec. 4.1), image and mask moved alike."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from phnet_monai.transforms.fit import PAD_VALUE, fitted_size, resize, to_unit


class WeakView:
    """Random weak view of one image.

    The image is fitted to `size` as everywhere (`fit.py`), times a random scale, then cropped to `size` at random or,
    where it is smaller, placed at random on a grey ground. All randomness comes from the generator handed in, so that a
    view can be repeated from a seed, whatever the number of loader workers.

    Args:
        size: side of the square output in pixels.
        scale_range: lowest and highest scale, relative to the fitted size; drawn uniformly.
        flip_probability: of a horizontal flip.
        pad_value: grey of the ground, in [0, 1].

    Returns (from a call with a grey uint8 image (H, W) and optionally a bool mask (H, W)):
        `image` float32 (1, size, size) in [0, 1], `valid` bool (size, size), False on padding, and, if a mask was
        given, `label` int64 (size, size) with 0 = background (and padding, where `valid` is False), 1 = lesion.
    """

    def __init__(
        self,
        size: int,
        *,
        scale_range: tuple[float, float] = (0.5, 2.0),
        flip_probability: float = 0.5,
        pad_value: float = PAD_VALUE,
    ) -> None:
        low, high = scale_range
        if size < 1 or not 0 < low <= high or not 0 <= flip_probability <= 1:
            raise ValueError(
                f"WeakView: size {size}, scale_range {tuple(scale_range)}, flip_probability {flip_probability}; "
                "expected size >= 1, 0 < low <= high, probability in [0, 1]"
            )
        self.size, self.scale_range = size, (low, high)
        self.flip_probability, self.pad_value = flip_probability, pad_value

    def __call__(self, image: np.ndarray, mask: np.ndarray | None, generator: np.random.Generator) -> dict[str, Tensor]:
        if image.ndim != 2:
            raise ValueError(f"WeakView: expected a grey image (H, W), found shape {image.shape}")
        if mask is not None and mask.shape != image.shape:
            raise ValueError(f"WeakView: image {image.shape} and mask {mask.shape} differ in size")
        flip = generator.random() < self.flip_probability
        scale = generator.uniform(*self.scale_range)
        rows, columns = fitted_size(image.shape[0], image.shape[1], max(1, round(self.size * scale)))
        top, left = (self._offset(extent, generator) for extent in (rows, columns))

        view = {"image": self._place(self._resize(to_unit(image), rows, columns, flip), top, left, self.pad_value)}
        inside = torch.ones(1, rows, columns)
        view["valid"] = self._place(inside, top, left, 0.0)[0] > 0
        if mask is not None:
            soft = self._resize(torch.from_numpy(mask.astype(np.float32))[None], rows, columns, flip)
            view["label"] = (self._place(soft, top, left, 0.0)[0] >= 0.5).long()
        return view

    def _offset(self, extent: int, generator: np.random.Generator) -> int:
        """Place of the first row (column) of the image in the view; negative where the image is cropped."""
        low, high = sorted((0, self.size - extent))
        return int(generator.integers(low, high + 1))

    @staticmethod
    def _resize(image: Tensor, rows: int, columns: int, flip: bool) -> Tensor:
        image = image.flip(-1) if flip else image
        return resize(image[None], rows, columns)[0]

    def _place(self, image: Tensor, top: int, left: int, fill: float) -> Tensor:
        """Crop or pad (negative padding crops) to the square; contiguous, so that it can be batched from workers."""
        rows, columns = image.shape[-2:]
        padding = (left, self.size - columns - left, top, self.size - rows - top)
        return F.pad(image, padding, value=fill).contiguous()
