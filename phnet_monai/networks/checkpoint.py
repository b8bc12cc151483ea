"""Checkpoints as data: weights and network arguments, read without executing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from phnet_monai.files import atomic_writer
from phnet_monai.networks.phnet import PHNet


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and the reason."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Tensors and plain values of a checkpoint file (`weights_only=True`: a pickled program is refused).

    Raises:
        FileNotFoundError, CheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip errors, pickle errors, EOF: torch raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({reason}). Expected a file written by `phnet train`; "
            "a truncated or foreign file must be replaced."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary")
    return content


def network_weights(checkpoint: dict[str, Any], path: str | Path, which: str = "teacher") -> dict[str, torch.Tensor]:
    """Weights of `which` (`teacher` or `student`) in a checkpoint; the student's, where no teacher was trained."""
    if which not in ("teacher", "student"):
        raise ValueError(f"which is {which!r}, expected 'teacher' or 'student'")
    weights = checkpoint.get(which) or checkpoint.get("student")
    if weights is None and checkpoint and all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        weights = checkpoint  # a plain state dict, as bundles ship it
    if not isinstance(weights, dict):
        raise CheckpointError(
            f"{path}: found the entries {sorted(checkpoint)}, expected 'student' or 'teacher' among them"
        )
    return weights


def load_checkpoint(
    path: str | Path, device: str | torch.device = "cpu", which: str = "teacher"
) -> tuple[PHNet, dict[str, Any]]:
    """Rebuild the network of a training checkpoint for inference: eval mode, no projector.

    Returns:
        The network and the checkpoint's `info`: `network` (arguments), `input` (`size`, `pad_value`), `method`, ...
    """
    checkpoint = read_checkpoint(path)
    info = checkpoint.get("info")
    if not isinstance(info, dict) or "network" not in info or "input" not in info:
        raise CheckpointError(f"{path}: has no 'info' with the network's arguments; expected a file of `phnet train`")
    try:
        network = PHNet(**{**info["network"], "embedding_size": None})
    except TypeError as error:
        raise CheckpointError(f"{path}: its network has arguments that this version does not know ({error})") from error
    load_weights(network, network_weights(checkpoint, path, which), path)
    return network.to(device).eval(), info


def load_weights(network: nn.Module, weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Copy `weights` into `network`. Projector weights that the network lacks are passed over, all else must match."""
    own = network.state_dict()
    extra = [name for name in weights if name not in own and not name.startswith("projector.")]
    missing = [name for name in own if name not in weights and not name.startswith("projector.")]
    shapes = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if extra or missing or shapes:
        raise CheckpointError(
            f"{path}: the weights are of another network ({len(missing)} missing, {len(extra)} unknown, {len(shapes)} "
            f"of another shape; e.g. {(missing + extra + shapes)[:3]}). Use the profile and network of the training."
        )
    nonfinite = [n for n, t in weights.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if nonfinite:
        raise CheckpointError(f"{path}: {len(nonfinite)} tensors hold NaN or infinite values, e.g. {nonfinite[0]}")
    network.load_state_dict({**own, **{name: t for name, t in weights.items() if name in own}})


def export_state_dict(checkpoint: str | Path, out: str | Path, which: str = "teacher") -> Path:
    """Write `models/model.pt` of a bundle: the plain state dict of the network without projector, atomically."""
    network, _ = load_checkpoint(checkpoint, which=which)
    with atomic_writer(out) as stream:
        torch.save(network.state_dict(), stream)
    return Path(out)
