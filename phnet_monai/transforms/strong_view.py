"""The strong view: photometric operations on a batch of weak views, drawn per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from phnet_monai.transforms import photometric
from phnet_monai.transforms.draws import uniform

StrongMode = Literal["random_ops", "jitter"]
OPERATIONS = (
    "identity",
    "autocontrast",
    "equalise",
    "blur",
    "contrast",
    "brightness",
    "sharpness",
    "posterise",
    "solarise",
)


class StrongView:
    """Random photometric changes of grey images; colour operations of the sources are left out.

    Mode `random_ops` (AugSeg): per image, k is drawn from 1 ... `max_operations` and k operations from `operations`,
    with replacement, in the order drawn. Mode `jitter` (iMAS, PS-MT, UniMatch): with `jitter_probability` a change of
    brightness and of contrast, in random order, then with `blur_probability` a blur.

    Args:
        mode: `random_ops` or `jitter`.
        operations: names out of `OPERATIONS`, for `random_ops`.
        max_operations: n, for `random_ops`.
        factors: range of the factors of brightness, contrast and sharpness, for `random_ops`.
        bits: range of the bits that posterising keeps, whole numbers.
        sigma: range of the blur in pixels.
        jitter_probability, blur_probability: for `jitter`.
        jitter: factors of brightness and contrast lie in 1 -+ `jitter`.

    Call:
        image float (B, 1, H, W) in [0, 1]; valid bool (B, H, W), False on padding, or None; generator, on the CPU. All
        numbers are drawn from it, as many for every image. Returns a new image in [0, 1]; padding keeps its value, and
        has no part in what happens to the pixels beside it.

    Raises:
        ValueError: names, ranges or shapes that do not fit.
    """

    def __init__(
        self,
        mode: StrongMode = "random_ops",
        *,
        operations: Sequence[str] = OPERATIONS,
        max_operations: int = 3,
        factors: tuple[float, float] = (0.05, 0.95),
        bits: tuple[int, int] = (4, 8),
        sigma: tuple[float, float] = (0.1, 2.0),
        jitter_probability: float = 0.8,
        jitter: float = 0.5,
        blur_probability: float = 0.5,
    ) -> None:
        _check_mode(mode, operations, max_operations)
        _check_range("factors", factors, 0.0, 10.0)
        _check_range("bits", bits, 1, 8)
        _check_range("sigma", sigma, 1e-3, 100.0)
        for name, share in (
            ("jitter_probability", jitter_probability),
            ("jitter", jitter),
            ("blur_probability", blur_probability),
        ):
            if not 0 <= share <= 1:
                raise ValueError(f"StrongView: {name} is {share}, expected a value in [0, 1]")
        self.mode, self.operations, self.max_operations = mode, tuple(operations), max_operations
        self.jitter_probability, self.blur_probability = jitter_probability, blur_probability
        factors = tuple(factors) if mode == "random_ops" else (1 - jitter, 1 + jitter)  # type: ignore[assignment]
        self.ranges = {
            "brightness": factors,
            "contrast": factors,
            "sharpness": factors,
            "blur": tuple(sigma),
            "posterise": (bits[0], bits[1] + 1),  # rounded down
            "solarise": (1 / 256, 1.0),
        }

    def __call__(self, image: Tensor, valid: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        if valid is None:
            valid = torch.ones_like(image[:, 0], dtype=torch.bool)
        if image.ndim != 4 or image.shape[1] != 1 or valid.shape != image[:, 0].shape:
            raise ValueError(
                f"StrongView: image {tuple(image.shape)}, valid {tuple(valid.shape)}; expected (B, 1, H, W), (B, H, W)"
            )
        draw = self._draw_operations if self.mode == "random_ops" else self._draw_jitter
        names, numbers = draw(len(image), generator)
        amounts = uniform(numbers.shape, torch.device("cpu"), generator)
        valid = valid.unsqueeze(1).bool()
        changed = image.clone()
        for slot in range(numbers.shape[1]):
            for number, name in enumerate(names):
                chosen = (numbers[:, slot] == number).nonzero().flatten()
                if name == "identity" or len(chosen) == 0:
                    continue
                amount = self._amount(name, amounts[chosen, slot]).to(image)
                chosen = chosen.to(image.device)
                operation = getattr(photometric, name)
                changed[chosen] = operation(changed[chosen], valid[chosen], amount.view(-1, 1, 1, 1))
        return torch.where(valid, changed, image)

    def _amount(self, name: str, share: Tensor) -> Tensor:
        low, high = self.ranges.get(name, (0.0, 0.0))
        return low + (high - low) * share

    def _draw_operations(self, batch: int, generator: torch.Generator | None) -> tuple[tuple[str, ...], Tensor]:
        """Names, and their numbers per image and slot (batch, slots); -1 where nothing more is done."""
        share = uniform((batch, 1 + self.max_operations), torch.device("cpu"), generator)
        count = (share[:, :1] * self.max_operations).floor() + 1
        numbers = (share[:, 1:] * len(self.operations)).floor().long()
        return self.operations, torch.where(torch.arange(self.max_operations) < count, numbers, -1)

    def _draw_jitter(self, batch: int, generator: torch.Generator | None) -> tuple[tuple[str, ...], Tensor]:
        order, jitter, blur = uniform((3, batch), torch.device("cpu"), generator)
        first = (order < 0.5).long()
        numbers = torch.stack([first, 1 - first], dim=1)
        numbers[jitter >= self.jitter_probability] = -1
        last = torch.where(blur < self.blur_probability, 2, -1)
        return ("brightness", "contrast", "blur"), torch.cat([numbers, last.unsqueeze(1)], dim=1)


def _check_mode(mode: str, operations: Sequence[str], max_operations: int) -> None:
    if mode not in ("random_ops", "jitter"):
        raise ValueError(f"StrongView: mode is {mode!r}, expected 'random_ops' or 'jitter'")
    unknown = [name for name in operations if name not in OPERATIONS]
    if unknown or not operations:
        raise ValueError(f"StrongView: operations {list(operations)}, expected some of {', '.join(OPERATIONS)}")
    if max_operations < 1:
        raise ValueError(f"StrongView: max_operations is {max_operations}, expected 1 or more")


def _check_range(name: str, pair: Sequence[float], lowest: float, highest: float) -> None:
    if len(pair) != 2 or not lowest <= pair[0] <= pair[1] <= highest:
        raise ValueError(f"StrongView: {name} is {tuple(pair)}, expected {lowest} <= low <= high <= {highest}")
