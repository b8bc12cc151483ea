"""Photometric changes on top of PH-Net: what the student sees changes, nothing else."""

from __future__ import annotations

import pytest
import torch

from phnet_monai.engines import SemiSupervisedEvents
from phnet_monai.handlers import PhotometricView
from phnet_monai.transforms import StrongView


class Before:
    """Keeps the views as the handlers before it left them."""

    def __init__(self) -> None:
        self.views = []

    def attach(self, engine) -> None:
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self)

    def __call__(self, engine) -> None:
        self.views.append(dict(engine.state.step.views))


@pytest.mark.parametrize("views", [("unlabeled",), ("labeled", "unlabeled"), ("labeled", "none")])
@pytest.mark.parametrize("from_start", [False, True])
def test_only_the_images_of_the_named_views_change(tiny, views, from_start):
    before = Before()
    handler = PhotometricView(views=views, from_start=from_start)
    run = tiny.build(handlers=(before, handler))
    run.trainer.run()
    changed = 0
    for epoch, old, step in zip(run.recorder.epochs, before.views, run.recorder.steps, strict=True):
        assert list(step.views) == list(old)
        for name, view in step.views.items():
            for part in ("target", "weight", "valid"):
                assert torch.equal(getattr(view, part), getattr(old[name], part))
            padding = ~view.valid.unsqueeze(1)
            assert torch.equal(view.image[padding], old[name].image[padding])
            may = name in views and (epoch > 1 or from_start)
            same = torch.equal(view.image, old[name].image)
            assert same or may
            changed += not same
    # with probability 0.04 an image draws neither jitter nor blur
    assert changed >= 0.8 * sum(
        name in views and (epoch > 1 or from_start)
        for epoch, step in zip(run.recorder.epochs, run.recorder.steps, strict=True)
        for name in step.views
    )


def test_the_teacher_sees_images_without_the_changes(tiny):
    """Its second answer is that of a training without the handler, as long as the weights are the same."""
    plans = []
    for handlers in ((), (PhotometricView(StrongView("random_ops")),)):
        run = tiny.build(rate=0.0, handlers=handlers, pretrain_epochs=0, max_epochs=1)
        run.trainer.run()
        plans.append(run.recorder.steps[0].patches)
    assert torch.equal(plans[0].confidence, plans[1].confidence)
    assert torch.equal(plans[0].pseudo_label, plans[1].pseudo_label)


@pytest.mark.parametrize("views", ["unlabeled", ()])
def test_bad_views_are_refused(views):
    with pytest.raises(ValueError, match="PhotometricView: views is"):
        PhotometricView(views=views)
