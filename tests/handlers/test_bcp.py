"""Bidirectional copy-paste: every pixel from one source with its label, the losses of the regions, both phases."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from phnet_monai.engines import Step, View
from phnet_monai.engines.step import Output
from phnet_monai.handlers import BCP
from phnet_monai.handlers.bcp import draw_rectangle, largest_components, paste

HEIGHT, WIDTH = 12, 15


@pytest.fixture(scope="session")
def literal() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "bcp_reference.py")))


def make_view(count: int, seed: int, *, base: float, padded: bool = False) -> View:
    """Grey values tell where a pixel is from: between `base` and `base` + 1, different everywhere."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, HEIGHT, WIDTH)
    image = base + torch.randperm(count * HEIGHT * WIDTH, generator=generator).view(count, 1, HEIGHT, WIDTH) / 1e4
    valid = torch.ones(shape, dtype=torch.bool)
    if padded:
        valid[0, :, :4] = False
        valid[-1, 9:] = False
    return View(image, torch.randint(2, shape, generator=generator), torch.ones(shape), valid)


def make_engine(labeled: int = 4, unlabeled: int | None = 4, seed: int = 0, padded: bool = True) -> SimpleNamespace:
    views = {"labeled": make_view(labeled, 1, base=0.0, padded=padded)}
    if unlabeled is not None:
        views["unlabeled"] = make_view(unlabeled, 2, base=10.0, padded=padded)
    step = Step(views=views, weak=dict(views))
    return SimpleNamespace(state=SimpleNamespace(step=step), generator=torch.Generator().manual_seed(seed))


def answer(step: Step, seed: int = 5) -> None:
    """Random logits for every view."""
    generator = torch.Generator().manual_seed(seed)
    for name, view in step.views.items():
        logits = 2 * torch.randn(len(view.image), 2, HEIGHT, WIDTH, generator=generator)
        step.outputs[name] = Output(logits.requires_grad_(), None)


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [t.detach().double().numpy() if t.is_floating_point() else t.numpy().astype(int) for t in tensors]


# the rectangle


@pytest.mark.parametrize(("size", "expected"), [((12, 15), (8, 10)), ((160, 160), (106, 106)), ((300, 33), (200, 22))])
def test_the_rectangle_covers_two_thirds_of_each_side(size, expected):
    generator = torch.Generator().manual_seed(0)
    corners = set()
    for _ in range(40):
        rectangle = draw_rectangle(*size, 2 / 3, generator)
        rows, columns = rectangle.any(dim=1).nonzero().flatten(), rectangle.any(dim=0).nonzero().flatten()
        assert (len(rows), len(columns)) == expected
        assert rectangle.sum() == expected[0] * expected[1]  # filled
        assert rows[-1] - rows[0] + 1 == expected[0]  # in one piece
        corners.add((int(rows[0]), int(columns[0])))
    assert len(corners) > 20
    if size == (12, 15):
        assert {y for y, _ in corners} == set(range(5))  # up to both edges
        assert {x for _, x in corners} == set(range(6))


# largest component


@pytest.mark.parametrize("seed", range(4))
def test_largest_components_equal_flooding(literal, seed):
    label = (torch.rand(3, 14, 11, generator=torch.Generator().manual_seed(seed)) < 0.3).long()
    expected = np.stack([literal.largest_component(mask) for mask in label.numpy() > 0])
    np.testing.assert_array_equal(largest_components(label).numpy(), expected)


def test_components_by_hand():
    label = torch.tensor([[[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 1]], [[0] * 4] * 4])
    kept = largest_components(label)
    assert kept[0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0] * 4, [0] * 4]  # corners touch; the first of equals
    assert not kept[1].any()
    assert kept.dtype == torch.int64
    full = torch.ones(1, 3, 3, dtype=torch.long)
    assert torch.equal(largest_components(full), full)


def test_components_of_every_class():
    label = torch.tensor([[[1, 1, 0, 2, 0, 1], [0, 0, 0, 2, 0, 2]]])
    assert largest_components(label).tolist() == [[[1, 1, 0, 2, 0, 0], [0, 0, 0, 2, 0, 0]]]


# phase B


@pytest.mark.parametrize("seed", range(3))
def test_every_pixel_has_one_source_and_its_label(literal, seed):
    engine = make_engine(seed=seed)
    step = engine.state.step
    handler = BCP(largest_component=False, unlabeled_weight=0.25)
    handler.prepare(engine)
    assert list(step.views) == ["ingoing", "outgoing"]
    labeled, unlabeled = step.weak["labeled"], step.weak["unlabeled"]
    mask = handler.rectangle.numpy()
    assert mask.sum() == 8 * 10

    def sources(part: slice) -> tuple[list[np.ndarray], list[np.ndarray]]:
        pseudo = unlabeled.target * unlabeled.valid
        first = (labeled.image, labeled.target, labeled.valid, labeled.weight)
        second = (unlabeled.image, pseudo, unlabeled.valid, 0.25 * unlabeled.weight)
        return arrays(*(t[part] for t in first)), arrays(*(t[part] for t in second))

    (l_a, u_a), (l_b, u_b) = sources(slice(2)), sources(slice(2, 4))
    for name, inside, outside in (("ingoing", u_a, l_a), ("outgoing", l_b, u_b)):
        view = step.views[name]
        found = arrays(view.image, view.target, view.valid, view.weight)
        for got, one, other in zip(found, inside, outside, strict=True):
            np.testing.assert_array_equal(got, literal.mix(one, other, mask))
        assert view.loss_weight == 0
    # no pixel is seen twice; l_a inside and u_b inside are not seen at all
    used = torch.cat([step.views["ingoing"].image.flatten(), step.views["outgoing"].image.flatten()])
    assert len(used.unique()) == len(used)


def test_paste_and_paste_back_is_the_identity():
    first, second = make_view(2, 1, base=0.0), make_view(2, 2, base=10.0, padded=True)
    rectangle = draw_rectangle(HEIGHT, WIDTH, 0.5, torch.Generator().manual_seed(0))
    there, other = paste(first, second, rectangle), paste(second, first, rectangle)
    back = paste(there, other, rectangle)
    for name in ("image", "target", "weight", "valid"):
        assert torch.equal(getattr(back, name), getattr(first, name))


def test_the_weak_views_are_kept_as_they_were():
    engine = make_engine()
    before = {name: view.image.clone() for name, view in engine.state.step.weak.items()}
    BCP().prepare(engine)
    assert all(torch.equal(engine.state.step.weak[name].image, image) for name, image in before.items())
    assert list(engine.state.step.weak) == ["labeled", "unlabeled"]


@pytest.mark.parametrize("weight", [0.5, 0.0, 1.3])
def test_the_losses_are_those_of_the_regions(literal, weight):
    engine = make_engine(padded=True)
    step, handler = engine.state.step, BCP(unlabeled_weight=weight)
    handler.prepare(engine)
    answer(step)
    handler.add_losses(engine)
    (mask,) = arrays(handler.rectangle)
    assert set(step.losses) == {"ingoing", "outgoing"}
    assert set(step.loss_weights.values()) == {1.0}
    for name, inside, outside in (("ingoing", weight, 1.0), ("outgoing", 1.0, weight)):
        view = step.views[name]
        logits, target, valid = arrays(step.outputs[name].logits, view.target, view.valid)
        expected = literal.mixed_loss(logits, target, mask, valid, inside, outside)
        assert step.losses[name].item() == pytest.approx(expected, rel=1e-5)


def test_the_largest_component_is_a_switch(literal):
    for switch in (True, False):
        engine = make_engine(padded=False)
        labels = engine.state.step.views["unlabeled"].target
        handler = BCP(largest_component=switch)
        handler.prepare(engine)
        expected = np.stack([literal.largest_component(mask) for mask in labels.numpy() > 0]) if switch else labels
        inside = engine.state.step.views["ingoing"].target[:, handler.rectangle]
        np.testing.assert_array_equal(inside.numpy(), np.asarray(expected)[:2][:, handler.rectangle.numpy()])


def test_a_component_in_the_padding_does_not_win():
    engine = make_engine(padded=False)
    view = engine.state.step.views["unlabeled"]
    view.target.zero_()
    view.target[:, :, 8:] = 1  # large, and joined to nothing that is seen
    view.target[:, 5, 6] = 1
    view.valid[:, :, 8:] = False
    BCP(share=0.99).prepare(engine)
    seen = engine.state.step.views["ingoing"].target[:, 5, 6]
    assert seen.tolist() == [1, 1]


def test_padding_gets_no_gradient_and_all_else_does():
    engine = make_engine()
    step, handler = engine.state.step, BCP()
    handler.prepare(engine)
    answer(step)
    handler.add_losses(engine)
    step.total_loss().backward()
    for name, view in step.views.items():
        gradient = step.outputs[name].logits.grad
        assert not gradient[~view.valid.unsqueeze(1).expand_as(gradient)].any()
        assert gradient[view.valid.unsqueeze(1).expand_as(gradient)].all()


# phase A


def test_labeled_pairs_in_labeled_only_steps(literal):
    engine = make_engine(unlabeled=None)
    step, handler = engine.state.step, BCP()
    handler.prepare(engine)
    assert list(step.views) == ["copy_paste"]
    labeled, view = step.weak["labeled"], step.views["copy_paste"]
    (mask,) = arrays(handler.rectangle)
    for name in ("image", "target", "valid"):
        (source,), (found,) = arrays(getattr(labeled, name)), arrays(getattr(view, name))
        np.testing.assert_array_equal(found, literal.mix(source[2:], source[:2], mask))  # b into a
    assert view.weight.min() == 1
    answer(step)
    handler.add_losses(engine)
    logits, target, valid = arrays(step.outputs["copy_paste"].logits, view.target, view.valid)
    expected = literal.mixed_loss(logits, target, mask, valid, 1.0, 1.0)
    assert set(step.losses) == {"copy_paste"}
    assert step.losses["copy_paste"].item() == pytest.approx(expected, rel=1e-5)


# refusals


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "message"),
    [
        (3, 4, "3 labeled images in a step, expected an even number"),
        (1, None, "1 labeled images in a step"),
        (4, 5, "5 unlabeled images in a step"),
        (4, 2, "4 labeled and 2 unlabeled images in a step, expected as many of both"),
    ],
)
def test_batches_that_cannot_be_halved_are_refused(labeled, unlabeled, message):
    with pytest.raises(ValueError, match=message):
        BCP().prepare(make_engine(labeled, unlabeled))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 1.0}, "share is 1.0, expected a value between 0 and 1"),
        ({"share": 0}, "share is 0"),
        ({"unlabeled_weight": -0.5}, "unlabeled_weight is -0.5"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"BCP: {message}"):
        BCP(**arguments)


# in a training


def test_in_a_training(tiny):
    run = tiny.build(apa=False, hpc=False, batch_size=4, handlers=(BCP(),))
    run.trainer.run()
    for epoch, step, output in zip(run.recorder.epochs, run.recorder.steps, run.recorder.outputs, strict=True):
        names = ["copy_paste"] if epoch == 1 else ["ingoing", "outgoing"]
        assert list(step.views) == list(step.losses) == names
        assert output["loss"] == pytest.approx(sum(output[f"loss_{name}"] for name in names), rel=1e-5)
        assert all(len(view.image) == 2 for view in step.views.values())
    rectangles = {tuple((s.views["ingoing"].weight[0] < 1).nonzero()[0].tolist()) for s in run.recorder.steps[-4:]}
    assert len(rectangles) > 1  # a new place every step


def test_the_seed_decides(tiny):
    def final(**arguments):
        run = tiny.build(apa=False, hpc=False, batch_size=4, max_epochs=2, handlers=(BCP(),), **arguments)
        run.trainer.run()
        return tiny.weights(run.student)

    first = final()
    torch.rand(3)
    assert tiny.equal(first, final())
    assert not tiny.equal(first, final(seed=1))
