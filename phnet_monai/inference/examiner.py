"""What a network says of an image that nobody has outlined: how unsure it is, and what the image looks like to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnet_monai.inference.hardness import frame_grid, uncertainty
from phnet_monai.inference.predictor import Predictor, check_image, chunks, lesion_probs
from phnet_monai.inference.ranking import disagreement
from phnet_monai.networks import Ensemble, PHNet
from phnet_monai.networks.ensemble import Fitted
from phnet_monai.transforms.fit import fit_image, fitted_size


@dataclass(frozen=True)
class Examined:
    """Of one image: uncertainty and disagreement in [0, 1], and the embedding, float32 (D,) of length 1."""

    uncertainty: float
    disagreement: float
    embedding: np.ndarray


class Examiner:
    """Looks at each image and its mirror image, as one batch and at the network's own size.

    Left and right are the only flip: training knows it, and an ultrasound image has a top. The embedding is the mean
    over the two, so that a mirrored copy is a near-duplicate as well. Of an ensemble, all answer and the first one
    embeds.

    Args:
        predictor: the model; its network must be a `PHNet`, or an `Ensemble` of them.

    Raises:
        ValueError: another network, whose features cannot be had (TorchScript, ONNX).
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        network = predictor.network
        size, pad_value = predictor.size, predictor.pad_value
        first = network.members[0] if isinstance(network, Ensemble) else network
        if isinstance(first, Fitted):
            # members of several input sizes fit what they get to their own: the first one's is given to all
            size, pad_value = first.size, first.pad_value
            first = first.network
        if not isinstance(first, PHNet) or size is None or pad_value is None:
            name = predictor.settings.get("model", type(network).__name__)
            raise ValueError(
                f"{name}: ranking reads the features of the encoder, which exported programs do not give; use the "
                "checkpoint of `phnet train`, its export as safetensors, or a bundle"
            )
        self.encoder, self.size, self.pad_value = first, size, pad_value

    def examine(self, images: Sequence[np.ndarray]) -> list[Examined]:
        """Examine images, uint8 (H, W) of any sizes, in batches of the predictor's size.

        Raises:
            ValueError: an image is no uint8 (H, W) array with pixels, or the network gave NaN or infinite values.
        """
        for index, image in enumerate(images):
            check_image(image, name=f"images[{index}]")
        return [one for batch in chunks(images, self.predictor.batch_size) for one in self._examine(batch)]

    @torch.inference_mode()
    def _examine(self, images: Sequence[np.ndarray]) -> list[Examined]:
        # fitted anew: mirrored in the padded square, an image may lie a column beside where the network would see it
        both = torch.stack(
            [fit_image(image, self.size, self.pad_value) for image in (*images, *(i[:, ::-1].copy() for i in images))]
        )
        logits, embeddings = self._run(both.to(device=self.predictor.device, memory_format=self.predictor.layout))
        answers = torch.stack(lesion_probs(logits).cpu().chunk(2), dim=1).numpy()
        looks = F.normalize(torch.stack(embeddings.chunk(2)).mean(dim=0)).cpu().numpy()
        return [
            self._summary(of_image, look, image.shape)
            for of_image, look, image in zip(answers, looks, images, strict=True)
        ]

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 2, S, S) and embeddings (B, D) of network inputs (B, 1, S, S)."""
        features = self.encoder.encode(images)
        embeddings = features[-1].float().mean(dim=(2, 3))
        network = self.predictor.network
        if network is self.encoder:
            return self.encoder.classify(self.encoder.decode(features), self.size, self.size), embeddings
        assert isinstance(network, nn.Module)
        return network(images), embeddings

    def _summary(self, answers: np.ndarray, embedding: np.ndarray, shape: tuple[int, ...]) -> Examined:
        """From the answers (2, S, S) to the image and its mirror image: padding is no part of them."""
        rows, columns = fitted_size(shape[0], shape[1], self.size)
        top, left = (self.size - rows) // 2, (self.size - columns) // 2
        inside = answers[:, top : top + rows, left : left + columns]
        inside = np.stack([inside[0], inside[1][:, ::-1]])
        return Examined(uncertainty(frame_grid(inside[0])), disagreement(inside), embedding)
