"""Small trained-looking models in every kind of file, for the tests of loading and exporting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from phnet_monai.networks import PHNet

TINY: dict[str, Any] = {
    "decoder": "plain_unet",
    "embedding_size": 4,
    "head_channels": 8,
    "unet_features": [4, 8, 8, 8, 8],
}
SIZE, PAD_VALUE = 32, 0.25


def network(seed: int = 0, **arguments: Any) -> PHNet:
    """A random network whose answers are far from 1/2, so that differences show."""
    torch.manual_seed(seed)
    net = PHNet(**{**TINY, **arguments}).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        channels = arguments.get("in_channels", 1)
        logits = net(images(2).expand(-1, channels, -1, -1))
        head = net.classifier[-1]
        gain = 1 / logits.std(dim=(0, 2, 3))
        head.weight *= gain[:, None, None, None]
        head.bias += gain * (head.bias - logits.mean(dim=(0, 2, 3))) - head.bias
    return net


def info(net: PHNet, *, size: int = SIZE) -> dict[str, Any]:
    return {
        "network": net.arguments,
        "input": {"size": size, "pad_value": PAD_VALUE},
        "method": "phnet",
        "version": "0",
    }


def write_checkpoint(path: Path, *, seed: int = 0, size: int = SIZE, **arguments: Any) -> Path:
    """Student of `seed` and teacher of `seed + 1`."""
    student, teacher = network(seed, **arguments), network(seed + 1, **{**arguments, "embedding_size": None})
    content = {"student": student.state_dict(), "teacher": teacher.state_dict(), "info": info(student, size=size)}
    torch.save(content, path)
    return path


def write_bundle(folder: Path, *, seed: int = 1, half: bool = False, **changes: Any) -> Path:
    """A bundle with the teacher of `write_checkpoint`; `changes` replace entries of its inference config."""
    (folder / "models").mkdir(parents=True)
    (folder / "configs").mkdir()
    weights = network(seed, embedding_size=None).state_dict()
    if half:
        weights = {name: t.half() if t.is_floating_point() else t for name, t in weights.items()}
    torch.save(weights, folder / "models" / "model.pt")
    arguments = {**TINY, "embedding_size": None, "weights": None, "fit_size": "@size", "pad_value": "@pad_value"}
    config = {
        "imports": ["$import os"],
        "size": "@sizes::1",
        "sizes": [500, SIZE],
        "pad_value": PAD_VALUE,
        "device": "$torch.device('cpu')",
        "network_def": {"_target_": "phnet_monai.networks.PHNet", **arguments},
        "network": "$@network_def.to(@device)",
        **changes,
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"name": "tiny", "version": "0.2.0"}))
    return folder


def images(count: int = 3, size: int = SIZE, seed: int = 5) -> torch.Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def probs(call: Any, batch: torch.Tensor) -> torch.Tensor:
    """Probability of lesion (B, S, S)."""
    return call(batch).softmax(dim=1)[:, 1]
