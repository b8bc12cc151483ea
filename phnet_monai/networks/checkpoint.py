"""Checkpoints as data: weights and network arguments, read without executing anything."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from phnet_monai.files import atomic_writer
from phnet_monai.networks.description import CheckpointError, bundle_model, check_info, described
from phnet_monai.networks.digests import check_digest, read_digests, record_digests
from phnet_monai.networks.ensemble import Ensemble, Fitted, network_argument
from phnet_monai.networks.phnet import PHNet
from phnet_monai.networks.tensor_file import is_safetensors, read_safetensors

_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
MAX_EXPANSION = 10
"""How many times larger than the file the content of a checkpoint may be; PyTorch itself never compresses it."""
MAX_ARGUMENT = 8_192
"""Largest number among a network's arguments (channels, rates): it is built before its weights are compared."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Tensors and plain values of a checkpoint file (`weights_only=True`: a pickled program is refused).

    A safetensors file of `phnet export` is read as a checkpoint with one network. Where `SHA256SUMS` beside the file
    names it, as beside shipped weights, its digest must fit.

    Raises:
        FileNotFoundError, CheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    check_digest(path)
    if is_safetensors(path):
        return read_safetensors(path)
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(
            f"{path}: is an ONNX file. Expected weights: the checkpoint that it was exported from, or its export as "
            "safetensors"
        )
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip errors, pickle errors, EOF: torch raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in reason:  # torch's words go on with how to run the file as a program
            reason = "it holds more than weights and plain values, or is no file of PyTorch"
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({reason}). Expected a file written by `phnet train`; "
            "a truncated or foreign file must be replaced."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary")
    return content


def _check_archive(path: Path) -> None:
    """Raise CheckpointError if a small file would unpack to a large one, or if a part does not fit its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            program = any("/code/" in entry.filename for entry in archive.infolist())
            bundle = any(entry.filename.endswith("configs/inference.json") for entry in archive.infolist())
            size = sum(entry.file_size for entry in archive.infolist())
            small = size <= MAX_EXPANSION * path.stat().st_size
            damaged = archive.testzip() if small else None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, RuntimeError, zlib.error):
        return  # of the old form, or no checkpoint at all: torch tells
    if program:
        raise CheckpointError(
            f"{path}: is TorchScript, a program. Expected weights: the checkpoint that it was exported from, or its "
            "export as safetensors"
        )
    if bundle:
        raise CheckpointError(
            f"{path}: is a bundle in a zip file. Unpack it and give its folder, or its file models/model.safetensors"
        )
    if damaged is not None:
        raise CheckpointError(
            f"{path}: not a readable checkpoint (its part {damaged} does not fit its checksum: the file was damaged). "
            "Expected a file as `phnet train` wrote it; copy it again"
        )
    if not small:
        raise CheckpointError(
            f"{path}: not a readable checkpoint (its {path.stat().st_size / 1e6:.1f} MB unpack to {size / 1e6:.0f} MB, "
            f"more than {MAX_EXPANSION} times as much). Expected a file of `phnet train`"
        )


def network_weights(checkpoint: dict[str, Any], path: str | Path, which: str = "teacher") -> dict[str, torch.Tensor]:
    """Weights of `which` in a checkpoint: `student`, or `teacher`, the network that the training evaluated.

    That is the student where there was no teacher, and where the training evaluated it all the same (native BCP).
    """
    if which not in ("teacher", "student"):
        raise ValueError(f"which is {which!r}, expected 'teacher' or 'student'")
    info = checkpoint.get("info")
    evaluated = info.get("evaluated") if isinstance(info, dict) else None
    weights = checkpoint.get("student" if evaluated == "student" else which)
    if weights is None:
        weights = checkpoint if _is_state_dict(checkpoint) else checkpoint.get("student")  # plain, as bundles ship them
    if not _is_state_dict(weights):
        raise CheckpointError(
            f"{path}: found the entries {sorted(map(str, checkpoint))}, expected 'student' or 'teacher' among them, "
            "with tensors by name"
        )
    check_plain_tensors(weights, path)
    return weights


def _is_state_dict(content: Any) -> TypeGuard[dict[str, torch.Tensor]]:
    """Whether `content` is a dictionary of tensors by name, with at least one of them."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items())
    )


def check_plain_tensors(weights: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Refuse tensors that no network of this package has: sparse, quantised or complex ones, without values, of 8-bit
    floats; torch's own errors on them come late and name no file.

    Raises:
        CheckpointError.
    """
    for name, tensor in weights.items():
        plain = tensor.layout == torch.strided and tensor.device.type != "meta" and not tensor.is_quantized
        if not plain or tensor.dtype not in _DTYPES:
            raise CheckpointError(
                f"{path}: its tensor {name} is {tensor.layout} {tensor.dtype}, expected plain numbers"
            )


def load_checkpoint(
    path: str | Path, device: str | torch.device = "cpu", which: str = "teacher"
) -> tuple[PHNet | Ensemble, dict[str, Any]]:
    """Rebuild the network of trained weights for inference: eval mode, float32, no projector.

    Args:
        path: a checkpoint of `phnet train`, a safetensors file of `phnet export`, a plain state dict with a
            description beside it (`description.described`), or a bundle's folder.

    Returns:
        The network (an `Ensemble` where the training had several teachers) and the checkpoint's `info`: `network`
        (arguments), `input` (`size`, `pad_value`), `method`, ...

    Raises:
        FileNotFoundError, CheckpointError.
    """
    path = bundle_model(path) if Path(path).is_dir() else path
    checkpoint = read_checkpoint(path)
    info = described(path) if _is_state_dict(checkpoint) else check_info(checkpoint.get("info"), path)
    weights = network_weights(checkpoint, path, which)
    try:
        network = _build(info, _member_count(weights), sum(tensor.numel() for tensor in weights.values()))
    except Exception as error:  # values of a foreign file may be anything, and so are the errors that they lead to
        raise CheckpointError(f"{path}: its network cannot be built by this version ({error})") from error
    load_weights(network, weights, path)
    return network.to(device).eval(), info


def _member_count(weights: dict[str, torch.Tensor]) -> int:
    """Networks in the weights of an ensemble; 0: it is a single network."""
    return len({match[1] for name in weights if (match := re.match(r"members\.(\d+)\.", name))})


def _build(info: dict[str, Any], members: int, given: int) -> PHNet | Ensemble:
    encoder = info["network"].get("encoder", "")
    if not re.fullmatch(r"[\w.-]*", encoder):  # `hf-hub:owner/name` would ask a server
        raise ValueError(f"encoder {encoder!r} is no name of segmentation-models-pytorch or timm")
    if large := [n for n in _numbers(info["network"]) if abs(n) > MAX_ARGUMENT]:
        raise ValueError(f"found {large[0]} among its arguments, expected at most {MAX_ARGUMENT}")
    # the weights come from the file: none are looked for elsewhere
    arguments = {**info["network"], "embedding_size": None, "weights": None}
    with torch.device("meta"):  # without memory: a small file may describe a network of gigabytes
        asked = sum(tensor.numel() for tensor in PHNet(**arguments).state_dict().values()) * max(1, members)
    if asked > MAX_EXPANSION * given + MAX_ARGUMENT**2:  # smaller differences are told by name, see `load_weights`
        raise ValueError(f"it asks for a network of {asked:,} values, the file holds {given:,}")
    networks = [PHNet(**arguments) for _ in range(max(1, members))]
    return Ensemble(networks, info.get("ensemble", {}).get("average", "probs")) if members else networks[0]


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in plain data."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


def load_ensemble(
    paths: Sequence[str | Path], device: str | torch.device = "cpu", which: str = "teacher"
) -> tuple[PHNet | Ensemble, dict[str, Any]]:
    """Rebuild the networks of several checkpoints as one that answers by their mean probability.

    Where all have the same input, so has the ensemble. Else `info["input"]["size"]` is None: the ensemble takes images
    as they are, of any size, and each member fits them to its own input, so that it sees what it would see alone.

    Returns:
        The network and what is known of it: `input`, and the `info` of each checkpoint as `members`. A single path
        gives the network of that checkpoint and its own `info`.

    Raises:
        FileNotFoundError, CheckpointError: a file cannot be used, is given twice, or has other classes than the first.
    """
    files = [Path(path).resolve() for path in paths]
    twice = [path for path, file in zip(paths, files, strict=True) if files.count(file) > 1]
    if not paths or twice:
        raise CheckpointError(f"{twice[0]}: is given twice" if twice else "an ensemble needs at least one checkpoint")
    loaded = [load_checkpoint(path, device, which) for path in paths]
    if len(loaded) == 1:
        return loaded[0]
    for name in ("num_classes", "in_channels"):
        found = [network_argument(network, name) for network, _ in loaded]
        for path, value in zip(paths, found, strict=True):
            if value != found[0]:
                raise CheckpointError(
                    f"{path}: its network has {name} {value}, that of {paths[0]} has {found[0]}; they cannot answer "
                    "together"
                )
    inputs = [info["input"] for _, info in loaded]
    networks: list[nn.Module] = [network for network, _ in loaded]
    same = all(entry == inputs[0] for entry in inputs)
    if not same:
        networks = [Fitted(n, i["size"], i["pad_value"]) for n, i in zip(networks, inputs, strict=True)]
    known = {"input": inputs[0] if same else {"size": None, "pad_value": None}, "members": [info for _, info in loaded]}
    return Ensemble(networks).to(device).eval(), known


def load_network(
    paths: str | Path | Sequence[str | Path], device: str | torch.device = "cpu", which: str = "teacher"
) -> PHNet | Ensemble:
    """The network of one checkpoint, or the ensemble of several, with its weights: for configs."""
    return load_ensemble([paths] if isinstance(paths, (str, Path)) else paths, device, which)[0]


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
    # as the network will hold them: 1e300 of float64 is infinite there
    nonfinite = [n for n, t in weights.items() if t.is_floating_point() and not torch.isfinite(t.float()).all()]
    if nonfinite:
        raise CheckpointError(
            f"{path}: {len(nonfinite)} tensors hold NaN or infinite values, e.g. {nonfinite[0]}; no image could be "
            "segmented by them. Take another checkpoint of that training, or train again"
        )
    network.load_state_dict({**own, **{name: t for name, t in weights.items() if name in own}})


def export_state_dict(checkpoint: str | Path, out: str | Path, which: str = "teacher") -> Path:
    """Write `models/model.pt` of a bundle: the plain state dict of the network without projector, atomically.

    Where `SHA256SUMS` beside it names the file, the new digest takes the place of the old one.
    """
    network, _ = load_checkpoint(checkpoint, which=which)
    if isinstance(network, Ensemble):
        raise CheckpointError(
            f"{checkpoint}: its {which} is an ensemble of {len(network.members)} networks, a bundle holds one; export "
            "its student"
        )
    with atomic_writer(out) as stream:
        torch.save(network.state_dict(), stream)
    if Path(out).name in read_digests(Path(out).parent):
        record_digests(Path(out).parent, [Path(out).name])
    return Path(out)
