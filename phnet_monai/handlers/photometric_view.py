"""Photometric changes on top of any method's views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ignite.engine import Engine

from phnet_monai.engines.step import UNLABELED, SemiSupervisedEvents, Step, View
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.transforms.strong_view import StrongView


class PhotometricView:
    """The student sees strong photometric versions of the named views; targets, weights and the teacher's images stay.

    Attach after the handler that makes the views (`AdaptivePatchAugmentation`), whose teacher passes are thus on images
    without these changes.

    Args:
        strong_view: the changes; by default brightness, contrast and blur.
        views: names of the views that are changed; those that a step lacks are passed over.
        from_start: change them in labeled-only epochs too.
    """

    def __init__(
        self,
        strong_view: StrongView | None = None,
        *,
        views: Sequence[str] = (UNLABELED,),
        from_start: bool = False,
    ) -> None:
        if isinstance(views, str) or not views:
            raise ValueError(f"PhotometricView: views is {views!r}, expected a list of names such as ['unlabeled']")
        self.strong_view, self.views, self.from_start = strong_view or StrongView("jitter"), tuple(views), from_start

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self)

    def __call__(self, engine: SemiSupervisedTrainer) -> None:
        if engine.pretraining and not self.from_start:
            return
        step: Step = engine.state.step
        for name in self.views:
            if name in step.views:
                step.views[name] = photometric(step.views[name], self.strong_view, engine)


def photometric(view: View, strong_view: StrongView, engine: SemiSupervisedTrainer) -> View:
    """The view with its image changed."""
    image = strong_view(view.image, view.valid, engine.generator)
    return replace(view, image=image.contiguous(memory_format=engine.format))
