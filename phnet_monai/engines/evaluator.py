"""Evaluation at the images' original size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.evaluator import Evaluator
from monai.inferers import Inferer, SimpleInferer
from monai.utils import ForwardMode
from torch import Tensor, nn

from phnet_monai.distributed import gather_all, joined_shard
from phnet_monai.metrics import SegmentationScores
from phnet_monai.transforms.fit import PAD_VALUE, fit_image, to_unit, unfit_probs


class LesionEvaluator(Evaluator):
    """Runs a network over images of any size and scores its lesion probability at the original size.

    Batches are lists of `{"image": uint8 (H, W), "label": bool (H, W), "case_id", "class" (optional)}` (the loader's
    `collate_fn` is the identity); images are fitted to `size`, run together, and mapped back one by one.

    Args:
        device: torch device.
        val_data_loader: see above.
        network: `PHNet` or any module (B, 1, S, S) -> logits (B, C, S, S); class 0 is background.
        size, pad_value: as in `fit_image`. None: the network takes images of any size; they are run one by one.
        distances: score surface distances too (slower; off during training).
        full_summary: `state.metrics` holds `scores.summary()` rather than `scores.quick()`; scalars only.
        val_handlers: None entries are dropped.

    After a run, `scores` holds the per-image scores, those of all processes where several have joined.
    """

    def __init__(
        self,
        device: str | torch.device,
        val_data_loader: Iterable[Sequence[dict[str, Any]]],
        network: nn.Module,
        *,
        size: int | None,
        pad_value: float | None = PAD_VALUE,
        distances: bool = False,
        full_summary: bool = False,
        epoch_length: int | None = None,
        inferer: Inferer | None = None,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        device = torch.device(device)
        self.network, self.inferer = network.to(device), inferer or SimpleInferer()
        self.size, self.pad_value, self.full_summary = size, pad_value, full_summary
        self.scores = SegmentationScores(distances=distances)
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            epoch_length=epoch_length,
            decollate=False,
            mode=ForwardMode.EVAL,
            val_handlers=None,
        )
        self.add_event_handler(Events.EPOCH_STARTED, LesionEvaluator._reset)
        self.add_event_handler(Events.EPOCH_COMPLETED, LesionEvaluator._summarise)
        self._register_handlers([handler for handler in val_handlers or () if handler is not None])

    def _reset(self) -> None:
        self.scores.reset()

    def _iteration(self, engine: Engine, batchdata: Any) -> dict[str, Any]:
        training = self.network.training
        self.network.eval()
        for item, lesion in zip(batchdata, self._lesion_probs(batchdata), strict=True):
            known = {"class_name": item.get("class"), "group": item.get("group_id")}
            self.scores.update(item["case_id"], lesion.numpy(), item["label"], **known)
        self.network.train(training)
        return {}

    @torch.inference_mode()
    def _lesion_probs(self, items: Sequence[dict[str, Any]]) -> list[Tensor]:
        """Probability of lesion of each image, (H, W) of its own size."""
        if self.size is None or self.pad_value is None:
            return [self._answer(to_unit(item["image"]).unsqueeze(0))[0, 0] for item in items]
        probs = self._answer(torch.stack([fit_image(item["image"], self.size, self.pad_value) for item in items]))
        return [unfit_probs(prob, item["label"].shape)[0] for prob, item in zip(probs, items, strict=True)]

    def _answer(self, images: Tensor) -> Tensor:
        logits = self.inferer(images.to(self.state.device), self.network)
        return logits.float().softmax(dim=1)[:, 1:].sum(dim=1, keepdim=True).cpu()

    def _summarise(self) -> None:
        if joined_shard().world > 1:
            self.scores.merge(gather_all(self.scores.content()))
        summary = self.scores.summary() if self.full_summary else self.scores.quick()
        self.state.metrics.update({name: value for name, value in summary.items() if isinstance(value, (int, float))})
