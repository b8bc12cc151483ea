"""Photometric operations on grey images, one amount per image, blind to padding.

Every operation takes `image` float (B, 1, H, W) in [0, 1], `valid` bool (B, 1, H, W) and `amount` (B, 1, 1, 1), and
returns an image of the same shape. Histograms, means and neighbourhoods are those of valid pixels; what comes out at
padding is of no meaning. Where all pixels are valid the results are Pillow's, up to its rounding to 8 bits and its
borders.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 256  # of an 8-bit image
SMOOTH = ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))


def identity(image: Tensor, valid: Tensor, amount: Tensor) -> Tensor:
    return image


def brightness(image: Tensor, valid: Tensor, amount: Tensor) -> Tensor:
    """Times the amount; 1 changes nothing, 0 is black."""
    return (image * amount).clamp(0, 1)


def contrast(image: Tensor, valid: Tensor, amount: Tensor) -> Tensor:
    """Blend with the mean grey; 1 changes nothing, 0 is grey all over."""
    mean = (image * valid).sum(dim=(1, 2, 3), keepdim=True) / valid.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    return (mean + amount * (image - mean)).clamp(0, 1)


def sharpness(image: Tensor, valid: Tensor, amount: Tensor) -> Tensor:
    """Blend with a smoothed image (3x3, the centre counts five times); 1 changes nothing, 0 is the smoothed one."""
    kernel = image.new_tensor(SMOOTH).view(1, 1, 3, 3)
    values, share = (F.conv2d(part, kernel, padding=1) for part in (image * valid, valid.to(image.dtype)))
    smooth = _divide(values, share, image)
    return (smooth + amount * (image - smooth)).clamp(0, 1)


def blur(image: Tensor, valid: Tensor, amount: Tensor) -> Tensor:
    """Gaussian blur, the amount is sigma in pixels."""
    # as matrix products K x K': a convolution with a kernel per image takes many times as long
    rows, columns = (_gaussian(extent, amount) for extent in image.shape[-2:])
    values, share = (rows @ part @ columns for part in (image * valid, valid.to(image.dtype)))
    return _divide(values, share, image)


def autocontrast(image: Tensor, valid: Tensor, amount: Tensor) -> Tensor:
    """Darkest pixel to 0, brightest to 1; an image of one grey stays as it is."""
    low = image.masked_fill(~valid, 1.0).amin(dim=(1, 2, 3), keepdim=True)
    high = image.masked_fill(~valid, 0.0).amax(dim=(1, 2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0, (image - low) / span.where(span > 0, 1.0), image).clamp(0, 1)


def equalise(image: Tensor, valid: Tensor, amount: Tensor) -> Tensor:
    """Histogram equalisation on 256 levels, by Pillow's table; an image of one grey stays as it is."""
    level = (image * (LEVELS - 1)).round().long().flatten(1)
    counted = valid.flatten(1).to(image.dtype)
    histogram = image.new_zeros(len(image), LEVELS).scatter_add_(1, level, counted)
    total = histogram.sum(dim=1, keepdim=True)
    last = (histogram > 0).long().mul(torch.arange(LEVELS, device=image.device)).amax(dim=1, keepdim=True)
    step = ((total - histogram.gather(1, last)) / (LEVELS - 1)).floor()
    below = histogram.cumsum(dim=1) - histogram
    table = ((below + (step / 2).floor()) / step.clamp(min=1)).floor().clamp(max=LEVELS - 1) / (LEVELS - 1)
    return torch.where((step > 0).view(-1, 1, 1, 1), table.gather(1, level).view_as(image), image)


def posterise(image: Tensor, valid: Tensor, amount: Tensor) -> Tensor:
    """Keep the highest bits of 8; the amount, rounded down, is their number."""
    step = 2.0 ** (8 - amount.floor())
    level = (image * (LEVELS - 1)).round()
    return (level / step).floor() * step / (LEVELS - 1)


def solarise(image: Tensor, valid: Tensor, amount: Tensor) -> Tensor:
    """Invert what is at least as bright as the amount."""
    return torch.where(image >= amount, 1 - image, image)


def _gaussian(extent: int, sigma: Tensor) -> Tensor:
    """exp(-(i - j)^2 / (2 sigma^2)), symmetric: sigma (B, 1, 1, 1) -> (B, 1, extent, extent)."""
    place = torch.arange(extent, device=sigma.device, dtype=sigma.dtype)
    half = 0.5 * ((place[:, None] - place) / sigma).square()
    return torch.where(half < 18, (-half).exp(), 0.0)  # beyond 6 sigma: nothing but denormal numbers, which are slow


def _divide(values: Tensor, share: Tensor, image: Tensor) -> Tensor:
    """Weighted mean of the valid neighbours; the image itself where there are none."""
    return torch.where(share > 0, values / share.where(share > 0, 1.0), image).clamp(0, 1)
