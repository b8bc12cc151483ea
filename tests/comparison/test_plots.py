"""What plots show; that they are there, whole and the same twice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phnet_monai.comparison import plots, statistics
from phnet_monai.comparison.plots import Curve, spaced
from phnet_monai.comparison.results import read_results
from phnet_monai.extras import MissingExtraError

Make = Callable[..., Path]


def test_curves_are_mean_and_range_of_the_runs(make_comparison: Make) -> None:
    folder = make_comparison(seeds=(0, 2))
    found = plots.curves(read_results(folder), "cpu", "1/8", "unlabeled")
    curve = found["phnet"]
    assert curve.steps.tolist() == [100, 200, 300]
    assert curve.mean == pytest.approx([51.1, 52.1, 53.1])
    assert curve.low == pytest.approx([51.0, 52.0, 53.0])
    assert curve.high == pytest.approx([51.2, 52.2, 53.2])


def test_only_steps_that_all_runs_have(make_comparison: Make) -> None:
    history = [{"epoch": 1, "iteration": 100, "validation": {"pooled_dice": 0.5}}, {"epoch": 2, "iteration": 200}]
    folder = make_comparison(
        changes={"phnet__cpu__1-8__seed1": {"history": history}, "cutmix__cpu__1-8__seed1": {"history": []}}
    )
    found = plots.curves(read_results(folder), "cpu", "1/8", "validation")
    assert found["phnet"].steps.tolist() == [100]
    assert found["cutmix"].steps.tolist() == [100, 200, 300]  # a run without history does not end the others
    assert "unlabeled" not in history[0]
    assert plots.curves(read_results(folder), "cpu", "1/8", "unlabeled")["phnet"].steps.tolist() == [100, 200, 300]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 5.0], [1.0, 5.0]),
        ([1.0, 1.0], [0.5, 1.5]),
        ([2.0, 1.0, 1.5], [2.5, 0.5, 1.5]),
        ([0.0, 0.0, 10.0], [-0.5, 0.5, 10.0]),
        ([3.0], [3.0]),
    ],
)
def test_labels_are_kept_apart(values: list[float], expected: list[float]) -> None:
    assert spaced(values, gap=1.0) == pytest.approx(expected)


def test_labels_keep_their_order_and_distance() -> None:
    values = np.random.default_rng(0).random(30).tolist()
    places = spaced(values, gap=0.1)
    order = np.argsort(values)
    assert (np.diff(np.array(places)[order]) >= 0.1 - 1e-9).all()


def picture(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert min(pixels.shape[:2]) > 100
    assert pixels.std() > 5  # something was drawn
    return pixels


@pytest.mark.parametrize("rows", [2, 4, 9])
def test_curves_are_drawn_in_one_panel_or_many(tmp_path: Path, rows: int) -> None:
    steps = np.array([100, 200, 300])
    found = {
        f"m{i}": Curve(steps, 60 + i + steps / 100, 59 + i + steps / 100, 61.5 + i + steps / 100, 2)
        for i in range(rows)
    }
    labels = {name: f"Method {name}" for name in found}
    for name in ("a.png", "b.png"):
        plots.plot_curves(found, tmp_path / name, labels=labels, reference="m1", title="T", ylabel="Dice")
    picture(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_curves_without_the_reference(tmp_path: Path) -> None:
    for rows in (2, 6):
        found = {f"m{i}": Curve(np.array([1]), *(np.array([60.0 + i]) for _ in range(3)), 1) for i in range(rows)}
        labels = {name: name for name in found}
        plots.plot_curves(found, tmp_path / "c.png", labels=labels, reference="gone", title="T", ylabel="Dice")
        picture(tmp_path / "c.png")


def test_other_plots(make_comparison: Make, tmp_path: Path) -> None:
    results = read_results(make_comparison(missing=("cutmix__cpu__1-8__seed1",)))
    paired = statistics.paired_records(results, "cpu", "1/8", n_resamples=50)
    sizes = statistics.size_records(results, "cpu", "1/8", n_resamples=50)
    plots.plot_methods(results, "cpu", "1/8", tmp_path / "m.png", part="test", checkpoint="last", title="T")
    plots.plot_differences(paired, tmp_path / "d.png", reference="PH-Net", title="T")
    plots.plot_sizes(sizes, tmp_path / "s.png", reference="phnet", title="T")
    for name in "mds":
        picture(tmp_path / f"{name}.png")
    # blue is the reference's and nobody else's
    blue = np.array([0, 114, 178])
    assert (np.abs(picture(tmp_path / "m.png").astype(int) - blue).sum(axis=2) < 12).sum() > 50


def test_a_plot_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), plots.drawing(tmp_path / "x.png", 1, 1, (2, 2)):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'phnet-monai\[plot\]'"):
        plots.pyplot()
