"""From grey images of any size to lesion probabilities of the same size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phnet_monai.device import pick_device
from phnet_monai.transforms.fit import fit_image, to_unit, unfit_probs

LESION = 1
"""Channel of the lesion in the network's output; 0 is background."""


class Predictor:
    """A trained network together with how images are brought to its input size and back.

    Args:
        network: (B, 1, S, S) in [0, 1] -> logits (B, 2, S, S): a module, which is moved to `device` and set to eval
            mode, or a function (another runtime).
        size: side S of the network's input, in pixels. None: the network takes images of any size; they are run
            one by one.
        pad_value: grey in [0, 1] that fills the square beside the image, as in training; None where `size` is.
        device: name of a torch device, or "auto" for the first GPU where there is one.
        batch_size: images per forward pass; on one core of a CPU torch takes its quick convolutions from 16 on.
        channels_last: keep weights and images in the memory layout that convolutions prefer; the results
            differ by rounding only.
        flip: test-time augmentation: the mean of the answers to the image and to its mirror image (left and right; an
            ultrasound image has a top), at twice the time.
    """

    def __init__(
        self,
        network: nn.Module | Callable[[Tensor], Tensor],
        *,
        size: int | None,
        pad_value: float | None,
        device: str | torch.device = "cpu",
        batch_size: int = 16,
        channels_last: bool = True,
        flip: bool = False,
    ) -> None:
        if (size is not None and size < 1) or batch_size < 1:
            raise ValueError(f"size and batch_size must be at least 1, found {size} and {batch_size}")
        if (pad_value is None) != (size is None) or (pad_value is not None and not 0 <= pad_value <= 1):
            raise ValueError(f"pad_value must be a grey in [0, 1], or None with size None, found {pad_value}")
        self.device = pick_device(device)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        if isinstance(network, nn.Module):
            network = network.to(self.device).to(memory_format=self.layout).eval()
        self.network = network
        self.size = size
        self.pad_value = None if pad_value is None else float(pad_value)
        self.batch_size, self.flip = batch_size, flip
        self.settings: dict[str, Any] = {"size": size, "pad_value": self.pad_value, "flip": flip}

    @classmethod
    def from_model(
        cls,
        path: str | Path | Sequence[str | Path],
        device: str | torch.device = "auto",
        *,
        backend: str = "auto",
        which: str = "teacher",
        batch_size: int = 16,
        channels_last: bool = True,
        flip: bool = False,
    ) -> Predictor:
        """The predictor of whatever `models.load_model` takes: a checkpoint of `phnet train`, several of them as an
        ensemble, a bundle's folder, a TorchScript or ONNX file.

        Args:
            path: one model, or several checkpoints whose mean probability is the answer.
            device, batch_size, channels_last, flip: see the class. The network's batch norms are folded into its
                convolutions (`networks.folding`), which changes the answers by rounding only.
            backend: `auto`, `torch`, `onnx` or `openvino`.
            which: "teacher" or "student", of a training checkpoint.

        Raises:
            FileNotFoundError, CheckpointError (a ValueError): a file is missing or no such model, or the
                networks do not fit together.
            ValueError: the device is not there.
        """
        from phnet_monai.inference.models import load_model
        from phnet_monai.networks.folding import folded

        if device != "auto":  # which device that is depends on the runtime
            device = pick_device(device)  # before the file is read: a wrong name is answered at once
        paths = [path] if isinstance(path, (str, Path)) else list(path)
        model = load_model(paths, device=device, backend=backend, which=which)
        network = model.network
        if isinstance(network, nn.Module):  # the weights are folded alike at any size: a small one costs nothing
            network = folded(network.eval(), torch.linspace(0, 1, 64 * 64, device=model.device).view(1, 1, 64, 64))
        predictor = cls(
            network,
            size=model.size,
            pad_value=model.pad_value,
            device=model.device,
            batch_size=batch_size,
            channels_last=channels_last,
            flip=flip,
        )
        origin = {"model": model.name, "model_sha256": model.sha256, "backend": model.backend, "which": which}
        predictor.settings = {**origin, **predictor.settings}
        return predictor

    def predict(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Probability of lesion per pixel.

        Args:
            images: uint8 arrays (H, W) of any sizes, as `phnet_monai.data.decode.read_image` returns them.

        Returns:
            one float32 array (H, W) in [0, 1] per image, of the image's own size and orientation.

        Raises:
            ValueError: an image is no uint8 (H, W) array with pixels, or the network gave NaN or infinite
                values.
        """
        for index, image in enumerate(images):
            check_image(image, name=f"images[{index}]")
        return [probs for batch in chunks(images, self.batch_size) for probs in self._predict_batch(batch)]

    @torch.inference_mode()
    def _predict_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        straight = self._answers(images)
        if not self.flip:
            return straight
        # fitted anew: mirrored in the padded square, it may lie a column beside where the network would see it
        mirrored = self._answers([image[:, ::-1].copy() for image in images])
        return [(one + other[:, ::-1]) / 2 for one, other in zip(straight, mirrored, strict=True)]

    def _answers(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.size is None or self.pad_value is None:
            return [self._run(to_unit(image).unsqueeze(0))[0].clamp(0, 1).numpy() for image in images]
        fitted = torch.stack([fit_image(image, self.size, self.pad_value) for image in images])
        return [restore(one, image.shape) for one, image in zip(self._run(fitted), images, strict=True)]

    def _run(self, images: Tensor) -> Tensor:
        """Probability of lesion (B, S, S) of network inputs (B, 1, S, S)."""
        return lesion_probs(self.network(images.to(device=self.device, memory_format=self.layout))).cpu()


def lesion_probs(logits: Tensor) -> Tensor:
    """Logits (B, 2, S, S) -> probability of lesion, float32 (B, S, S).

    Raises:
        ValueError: another shape, or values that are NaN or infinite (they would pass for background).
    """
    if logits.ndim != 4 or logits.shape[1] != 2:
        raise ValueError(f"the network gave shape {tuple(logits.shape)}, expected (B, 2, S, S)")
    probs = torch.softmax(logits.float(), dim=1)[:, LESION]
    if not bool(torch.isfinite(probs).all()):
        raise ValueError("the network gave NaN or infinite values: the training diverged, or the file is damaged")
    return probs


def restore(probs: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Probability (S, S) of the fitted image -> float32 (H, W) of the original."""
    height, width = shape
    return unfit_probs(probs.unsqueeze(0), (height, width))[0].clamp(0, 1).numpy()


def check_image(image: Any, *, name: str = "image") -> None:
    """Raise ValueError unless `image` is a uint8 array (H, W) with pixels."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 2 or image.size == 0:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"{name}: expected a uint8 array (H, W) with pixels, found {found}")


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive slices of `size` items; the last one may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
