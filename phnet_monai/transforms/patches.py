"""Patch-wise hardness and patch mixing (paper, Sec. 3.3): pure functions, vectorised over batch and patches.

A grid of `grid_size` x `grid_size` patches covers an image whose height and width it divides. Patch (row, column) m of
the grid stands at position (row, column) of every (B, G, G) tensor here. In a `keep_mask`, True keeps the image's own
patch and False takes the patch of the next image in the batch.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from phnet_monai.transforms.draws import uniform

CUT_RATIO = (0.1, 0.5)


def _patch_size(tensor: Tensor, grid_size: int) -> tuple[int, int]:
    height, width = tensor.shape[-2:]
    if grid_size < 1 or height % grid_size or width % grid_size:
        raise ValueError(
            f"grid_size {grid_size} does not divide the image of {height} x {width} pixels; choose one that does"
        )
    return height // grid_size, width // grid_size


def pixel_entropy(probs: Tensor) -> Tensor:
    """Entropy over the classes divided by log C: (B, C, H, W) probabilities -> (B, H, W) in [0, 1]."""
    return torch.special.entr(probs.float()).sum(dim=1) / math.log(probs.shape[1])


def patch_hardness(probs: Tensor, grid_size: int) -> Tensor:
    """Mean normalised entropy of each patch, Eq. 4.

    Args:
        probs: (B, C, H, W) class probabilities, C >= 2.
        grid_size: patches per side; must divide H and W.

    Returns:
        (B, G, G) in [0, 1]; 0 where the prediction is certain, 1 where all classes are equally likely.

    Raises:
        ValueError: shape other than (B, C >= 2, H, W), or a grid that does not divide the image.
    """
    if probs.ndim != 4 or probs.shape[1] < 2:
        raise ValueError(f"patch_hardness: probs has shape {tuple(probs.shape)}, expected (B, C, H, W) with C >= 2")
    return patch_mean(pixel_entropy(probs), grid_size).clamp(0.0, 1.0)


def patch_mean(values: Tensor, grid_size: int) -> Tensor:
    """Mean over each patch: (B, H, W) -> (B, G, G), float."""
    height, width = _patch_size(values, grid_size)
    patches = values.float().unflatten(-1, (grid_size, width)).unflatten(-3, (grid_size, height))
    return patches.mean(dim=(-3, -1))


def patch_all(mask: Tensor, grid_size: int) -> Tensor:
    """True for patches in which every pixel is True: bool (B, H, W) -> bool (B, G, G)."""
    height, width = _patch_size(mask, grid_size)
    return mask.bool().unflatten(-1, (grid_size, width)).unflatten(-3, (grid_size, height)).all(dim=-1).all(dim=-2)


def expand_patches(patches: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Patch grid to pixels: (B, G, G) -> (B, H, W), every pixel with its patch's value."""
    height, width = size
    grid = patches.shape[-1]
    if height % grid or width % grid:
        raise ValueError(f"a grid of {grid} x {grid} patches does not divide {height} x {width} pixels")
    return patches.repeat_interleave(height // grid, dim=-2).repeat_interleave(width // grid, dim=-1)


def shielded_patch_count(epoch: float, max_epochs: int, shield_ratio: float, grid_size: int) -> int:
    """k = floor(beta * t / T * N^2), Eq. 5.

    Args:
        epoch: t, counted from 1 (a fraction of an epoch is allowed).
        max_epochs: T.
        shield_ratio: beta in [0, 1].
        grid_size: N.

    Returns:
        Number of shielded patches, 0 ... N^2. A hair is added before rounding down: 0.3 * 10 / 200 * 400 is
        5.999... in floating point and 6 in the paper.

    Raises:
        ValueError: beta outside [0, 1], or t outside [0, T].
    """
    return math.floor(_shield_share(epoch, max_epochs, shield_ratio) * grid_size**2 + 1e-9)


def shielded_patch_counts(epoch: float, max_epochs: int, shield_ratio: float, valid: Tensor) -> Tensor:
    """k of every image as a share of its own valid patches: Eq. 5 with their number in place of N^2.

    Args:
        epoch, max_epochs, shield_ratio: as in `shielded_patch_count`.
        valid: bool (B, G, G), patches without padding.

    Returns:
        int64 (B,); for an image without padding the same as `shielded_patch_count`.
    """
    share, patches = _shield_share(epoch, max_epochs, shield_ratio), valid.flatten(1)
    # looked up, since not every device has the float64 that the hair needs
    counts = torch.tensor([math.floor(share * number + 1e-9) for number in range(patches.shape[1] + 1)])
    return counts.to(valid.device)[patches.sum(dim=1)]


def _shield_share(epoch: float, max_epochs: int, shield_ratio: float) -> float:
    """beta * t / T."""
    if not 0.0 <= shield_ratio <= 1.0:
        raise ValueError(f"shield_ratio is {shield_ratio}, expected a value in [0, 1]")
    if not 0 <= epoch <= max_epochs:
        raise ValueError(f"epoch is {epoch}, expected 0 ... max_epochs = {max_epochs}")
    return shield_ratio * epoch / max_epochs


def hardest_patches(hardness: Tensor, count: int | Tensor, valid: Tensor | None = None) -> Tensor:
    """The `count` patches of highest hardness of every image.

    Args:
        hardness: (B, G, G).
        count: patches to choose, one number for all images or int64 (B,); `min(count, valid patches)` are chosen where
            `valid` leaves fewer.
        valid: bool (B, G, G); patches that are False (padding) are never chosen. None: all may be.

    Returns:
        bool (B, G, G) with exactly `count` True per image. Ties go to the first patch in reading order.

    Raises:
        ValueError: a count below 0 or above the patches of the grid, or not one for each image.
    """
    batch, rows, columns = hardness.shape
    total = rows * columns
    _check_count(count, batch, total)
    score = hardness.flatten(1)
    if valid is not None:
        score = score.masked_fill(~valid.flatten(1), -math.inf)
    order = torch.sort(score, dim=1, descending=True, stable=True).indices
    wanted = count.to(score.device).unsqueeze(1) if isinstance(count, Tensor) else count
    among_first = (torch.arange(total, device=score.device) < wanted).expand(batch, total)
    chosen = torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, among_first)
    if valid is not None:
        chosen &= valid.flatten(1)
    return chosen.view(batch, rows, columns)


def _check_count(count: int | Tensor, batch: int, total: int) -> None:
    if isinstance(count, Tensor) and (count.shape != (batch,) or count.dtype != torch.int64):
        raise ValueError(
            f"count has shape {tuple(count.shape)} and type {count.dtype}, expected int64 ({batch},), one per image"
        )
    numbers = count.tolist() if isinstance(count, Tensor) else [count]
    if any(not 0 <= number <= total for number in numbers):
        found = numbers if isinstance(count, Tensor) else count
        raise ValueError(f"count is {found}, expected 0 ... {total} (the patches of the grid)")


ShieldMode = Literal["hard", "easy", "random", "none"]


def shielded_patches(
    hardness: Tensor,
    count: int | Tensor,
    mode: ShieldMode,
    *,
    valid: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Shielded patches by mode (Table 3a): `hard` (the method), `easy`, `random`, or `none`. bool (B, G, G)."""
    if mode == "hard":
        return hardest_patches(hardness, count, valid)
    if mode == "easy":
        return hardest_patches(-hardness, count, valid)
    if mode == "random":
        return hardest_patches(uniform(hardness.shape, hardness.device, generator), count, valid)
    if mode == "none":
        return torch.zeros_like(hardness, dtype=torch.bool)
    raise ValueError(f"shield mode is {mode!r}, expected 'hard', 'easy', 'random' or 'none'")


def draw_keep_mask(
    shielded: Tensor, cut_ratio: tuple[float, float] = CUT_RATIO, generator: torch.Generator | None = None
) -> Tensor:
    """Random patches to cut, never shielded ones (Sec. 3.3).

    Per image, a share of all N^2 patches is drawn uniformly from `cut_ratio` (clipped to the unshielded ones), and that
    many unshielded patches are cut.

    Args:
        shielded: bool (B, G, G).
        cut_ratio: lowest and highest share, 0 <= low <= high <= 1.
        generator: source of randomness (a CPU generator serves any device).

    Returns:
        keep_mask: bool (B, G, G), M of Eq. 6; False = cut.
    """
    low, high = cut_ratio
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(f"cut_ratio is {tuple(cut_ratio)}, expected 0 <= low <= high <= 1")
    batch, rows, columns = shielded.shape
    total = rows * columns
    flat = shielded.flatten(1)
    share = low + (high - low) * uniform((batch,), shielded.device, generator)
    # a hair is added before rounding down: 0.53 * 100 is 52.99999 in float32
    count = torch.minimum((share * total * (1 + 1e-6)).floor().long(), total - flat.sum(dim=1))
    # random order in which shielded patches come last; the first `count` are cut
    order = uniform((batch, total), shielded.device, generator).masked_fill(flat, 2.0).argsort(dim=1)
    rank = order.argsort(dim=1)
    return (rank >= count.unsqueeze(1)).view(batch, rows, columns)


def mix_patches(tensor: Tensor, keep_mask: Tensor) -> Tensor:
    """Fill cut patches with those of the next image in the batch, Eqs. 6 and 7.

    Always mixes from the unmixed batch: the last image takes its patches from the original first one.

    Args:
        tensor: images (B, C, H, W), or labels, weights or masks (B, H, W); any dtype.
        keep_mask: bool (B, G, G); G divides H and W.

    Returns:
        A new tensor of the same shape and dtype.
    """
    if tensor.shape[0] != keep_mask.shape[0]:
        raise ValueError(f"mix_patches: {tensor.shape[0]} images but {keep_mask.shape[0]} keep masks")
    keep = expand_patches(keep_mask, tensor.shape[-2:])
    if tensor.ndim == 4:
        keep = keep.unsqueeze(1)
    return torch.where(keep, tensor, tensor.roll(-1, dims=0))
