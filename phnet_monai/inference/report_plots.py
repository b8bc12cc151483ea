"""The plots of the evaluation page as SVG text: no plotting library, colours by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from phnet_monai.metrics.scores import SIZE_GROUPS

WIDTH, HEIGHT = 480, 320
LEFT, RIGHT, TOP, BOTTOM = 86, 12, 14, 44
"""Margins around the plotting area."""

MOST_GROUPS = 4
_SHAPES = (  # drawn around (0, 0); told apart without colour
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
    "M0 -5.2L5.2 0L0 5.2L-5.2 0Z",
    "M-3.7 -3.7H3.7V3.7H-3.7Z",
    "M0 -5L4.8 3.6H-4.8Z",
)


@dataclass(frozen=True)
class PlotPoint:
    """An image with a lesion: `number` of its card, areas in pixels, `share` of the frame that is lesion."""

    number: int
    name: str
    group: str | None
    truth: float
    predicted: float
    share: float
    dice: float


class Agreement(NamedTuple):
    """Bland and Altman's figures of predicted minus annotated areas; the limits are bias -+ 1.96 deviations."""

    images: int
    bias: float
    low: float
    high: float


class Plot(NamedTuple):
    """A figure of the page."""

    title: str
    caption: str
    svg: Markup


class Axis(NamedTuple):
    """One direction of a plot: value -> place, the marked values and how they are written."""

    place: Callable[[float], float]
    ticks: list[float]
    text: Callable[[float], str]


def agreement(truth: Sequence[float], predicted: Sequence[float]) -> Agreement:
    """Bias and limits of agreement of areas; the limits are NaN for fewer than two images.

    Raises:
        ValueError: no image, or lists of different lengths.
    """
    difference = np.subtract(predicted, truth, dtype=np.float64)
    if not difference.size:
        raise ValueError("agreement: expected the areas of at least one image, found none")
    bias = float(difference.mean())
    spread = 1.96 * float(difference.std(ddof=1)) if difference.size > 1 else math.nan
    return Agreement(int(difference.size), bias, bias - spread, bias + spread)


def point_groups(points: Iterable[PlotPoint]) -> list[str]:
    """Classes that the points are drawn by; none if there is one class only, or too many to tell apart."""
    groups = sorted({point.group for point in points if point.group is not None})
    return groups if 2 <= len(groups) <= MOST_GROUPS else []


def bland_altman(points: Sequence[PlotPoint]) -> Plot:
    """Area of the lesion: difference of prediction and annotation against their mean."""
    found = agreement([p.truth for p in points], [p.predicted for p in points])
    means = [(p.truth + p.predicted) / 2 for p in points]
    differences = [p.predicted - p.truth for p in points]
    lines = [("bias", "bias", found.bias), ("limit", "−1.96 SD", found.low), ("limit", "+1.96 SD", found.high)]
    lines = [line for line in lines if not math.isnan(line[2])]
    x = linear_axis([0, *means], LEFT, WIDTH - RIGHT)
    y = linear_axis([0, *differences, *(value for _, _, value in lines)], HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y, "mean of prediction and annotation, px", "prediction − annotation, px")]
    parts.append(_level("zero", y.place(0)))
    parts += [_level(kind, y.place(value)) for kind, _, value in lines]
    texts = [f"difference {_signed(d)} px, mean {m:,.0f} px" for m, d in zip(means, differences, strict=True)]
    parts.append(_marks(points, [x.place(m) for m in means], [y.place(d) for d in differences], texts))
    parts += [  # over the marks
        _label(WIDTH - RIGHT - 2, y.place(value) - 4, f"{name}: {_signed(value)}", kind) for kind, name, value in lines
    ]
    limits = "" if math.isnan(found.low) else f", limits of agreement {_signed(found.low)} to {_signed(found.high)} px"
    caption = (
        f"Bias {_signed(found.bias)} px{limits}; {_images(found.images)} with an annotated lesion, "
        "missed ones included."
    )
    return _plot("agreement", "Lesion area: agreement (Bland-Altman)", caption, parts)


def dice_by_size(points: Sequence[PlotPoint]) -> Plot:
    """Dice of each image against the annotated share of the frame (logarithmic), with the mean of each size group."""
    shares = [100 * p.share for p in points]
    x = log_axis(shares, LEFT, WIDTH - RIGHT)
    y = Axis(_straight(0, 1, HEIGHT - BOTTOM, TOP), [0, 0.2, 0.4, 0.6, 0.8, 1], lambda value: f"{value:.1f}")
    parts = [_frame(x, y, "annotated lesion, % of the image", "Dice")]
    summary = []
    for name, (low, high) in SIZE_GROUPS.items():
        inside = [p.dice for p in points if low <= p.share < high]
        ends = [min(max(x.place(100 * max(end, 1e-9)), LEFT), WIDTH - RIGHT) for end in (low, min(high, 1.0))]
        if LEFT < ends[0] < WIDTH - RIGHT:
            parts.append(_line("divide", ends[0], TOP, ends[0], HEIGHT - BOTTOM))
        if inside:
            mean = float(np.mean(inside))
            parts.append(_line("bias", ends[0], y.place(mean), ends[1], y.place(mean)))
            summary.append(f"{name} {mean:.3f} ({_images(len(inside))})")
    texts = [f"Dice {p.dice:.3f}, lesion {s:.2g} % of the image" for p, s in zip(points, shares, strict=True)]
    parts.append(_marks(points, [x.place(s) for s in shares], [y.place(p.dice) for p in points], texts))
    bounds = " and ".join(f"{100 * low:g} %" for low, _ in SIZE_GROUPS.values() if low)
    caption = f"Mean Dice: {', '.join(summary)}. Groups are divided at {bounds} of the image."
    return _plot("by-size", "Dice by lesion size", caption, parts)


def legend(groups: Sequence[str]) -> list[tuple[str, Markup]]:
    """(class, its mark as SVG) of each class."""
    template = Markup('<svg class="mark" viewBox="-7 -7 14 14" aria-hidden="true"><path class="g{}" d="{}"/></svg>')
    return [(group, template.format(number, _SHAPES[number])) for number, group in enumerate(groups)]


def linear_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Axis with round numbers as marks, from the mark below the least value to the mark above the largest."""
    low, high = min(values), max(values)
    step = _round_step((high - low) / 4 if high > low else max(abs(high), 1) / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    ticks = [number * step for number in range(first, last + 1)]
    return Axis(_straight(ticks[0], ticks[-1], start, end), ticks, lambda value: f"{value:,.6g}".replace("-", "−"))


def log_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Logarithmic axis for positive values, marked at 1, 2 and 5 times powers of ten."""
    low, high = min(values) / 1.15, max(values) * 1.15
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5) if low <= digit * 10.0**power <= high]
    straight = _straight(math.log10(low), math.log10(high), start, end)
    return Axis(lambda value: straight(math.log10(value)), ticks, lambda value: f"{value:g}")


def _round_step(wanted: float) -> float:
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= wanted * 0.999)


def _straight(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _plot(key: str, title: str, caption: str, parts: Iterable[Markup]) -> Plot:
    opening = Markup(
        '<svg class="plot" viewBox="0 0 {} {}" role="group" aria-labelledby="{}-title {}-text">'
        '<title id="{}-title">{}</title><desc id="{}-text">{}</desc>'
    ).format(WIDTH, HEIGHT, key, key, key, title, key, caption)
    return Plot(title, caption, opening + Markup("").join(parts) + Markup("</svg>"))


def _frame(x: Axis, y: Axis, x_title: str, y_title: str) -> Markup:
    """Grid lines, numbers and titles of both axes."""
    bottom = HEIGHT - BOTTOM
    parts = [_line("grid", LEFT, y.place(tick), WIDTH - RIGHT, y.place(tick)) for tick in y.ticks]
    parts += [_line("grid", x.place(tick), bottom, x.place(tick), bottom + 4) for tick in x.ticks]
    parts += [_label(LEFT - 7, y.place(tick) + 4, y.text(tick)) for tick in y.ticks]
    parts += [_label(place, bottom + 17, text, "middle") for place, text in _with_room(x)]
    parts.append(_label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_title, "middle title"))
    upright = Markup('<text class="middle title" transform="translate(12 {}) rotate(-90)">{}</text>')
    parts.append(upright.format(_short((TOP + bottom) / 2), y_title))
    return Markup('<g aria-hidden="true">') + Markup("").join(parts) + Markup("</g>")


def _with_room(x: Axis) -> list[tuple[float, str]]:
    """(place, number) of the marks whose numbers do not run into the one before."""
    shown: list[tuple[float, str]] = []
    free = -math.inf
    for tick in x.ticks:
        place, text = x.place(tick), x.text(tick)
        half = 3.6 * len(text)
        if place - half >= free:
            shown.append((place, text))
            free = place + half + 6
    return shown


def _marks(points: Sequence[PlotPoint], xs: Sequence[float], ys: Sequence[float], texts: Sequence[str]) -> Markup:
    """A link to its card for each point. One can be reached by Tab; the page's arrow keys move between them."""
    groups = point_groups(points)
    template = Markup(
        '<a href="#card-{}" tabindex="{}" aria-label="{}: {}"><title>{}: {}</title>'
        '<path class="g{}" transform="translate({} {})" d="{}"/></a>'
    )
    parts = []
    for rank, place in enumerate(sorted(range(len(points)), key=lambda place: xs[place])):
        point, text = points[place], texts[place]
        group = groups.index(point.group) if point.group in groups else 0
        where = (_short(xs[place]), _short(ys[place]))
        reach = 0 if rank == 0 else -1
        parts.append(
            template.format(point.number, reach, point.name, text, point.name, text, group, *where, _SHAPES[group])
        )
    return Markup('<g class="points">') + Markup("").join(parts) + Markup("</g>")


def _level(kind: str, y: float) -> Markup:
    return _line(kind, LEFT, y, WIDTH - RIGHT, y)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    template = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
    return template.format(kind, _short(x1), _short(y1), _short(x2), _short(y2))


def _label(x: float, y: float, text: str, kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, _short(x), _short(y), text)


def _short(value: float) -> str:
    return f"{value:.1f}"


def _signed(value: float) -> str:
    """`+1,234` or `−56`, with the minus sign that is as wide as the plus."""
    return f"{value:+,.0f}".replace("-", "−")


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
