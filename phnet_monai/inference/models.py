"""Any kind of trained model by its path: checkpoints, plain weights, bundles, TorchScript, ONNX.

Kinds are told by content, not by name, but nothing is run as a program that is not called one. Importing this is
cheap: torch is loaded when a model is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phnet_monai.files import sha256_of
from phnet_monai.inference.zipped import unzipped, zip_names

if TYPE_CHECKING:
    import torch

BACKENDS = ("auto", "torch", "torchscript", "onnx", "openvino")
WEIGHTS, TORCHSCRIPT, ONNX = "weights", "torchscript", "onnx"
_RUNS = {WEIGHTS: ("torch",), TORCHSCRIPT: ("torchscript", "torch"), ONNX: ("onnx", "openvino")}
"""Kind of file -> what can run it; the first one is the choice of `auto`."""


@dataclass
class LoadedModel:
    """A network ready for inference, and where it comes from.

    Attributes:
        network: (B, 1, S, S) float32 in [0, 1] -> logits (B, 2, S, S): a torch module on `device` in eval mode, or a
            function where another runtime runs it.
        size: S in pixels. None: it takes (B, 1, H, W) of any size and fits them itself.
        pad_value: grey in [0, 1] beside the fitted image; None where `size` is.
        name: name of the file or bundle folder; a list for several.
        sha256: of the model file; a list for several.
        backend: torch, torchscript, onnx or openvino.
        device: where the network runs.
        details: what the file tells beside its weights: network arguments, method, version, ...
    """

    network: Callable[[torch.Tensor], torch.Tensor]
    size: int | None
    pad_value: float | None
    name: str | list[str]
    sha256: str | list[str]
    backend: str
    device: torch.device
    details: dict[str, Any] = field(default_factory=dict)


def load_model(
    paths: str | Path | Sequence[str | Path],
    *,
    device: str | torch.device = "auto",
    backend: str = "auto",
    which: str = "teacher",
) -> LoadedModel:
    """Load a model for inference.

    Args:
        paths: one of
            - a checkpoint of `phnet train`, a safetensors file of `phnet export`, or a plain state dict with its
              description beside it (`NAME.json`, or the configs of the bundle it lies in);
            - a bundle's folder, or a zip file of it: weights and network arguments are read as data, no config is
              evaluated;
            - a TorchScript file of `phnet export` or MONAI's `ckpt_export`: a program, for trusted origins only, and
              run only if it is named `.ts` or `backend` asks for it;
            - an ONNX file of `phnet export`;
            or several of the first two kinds, whose mean probability is the answer.
        device: name of a torch device; `auto` is the first GPU that the backend can use, else the CPU.
        backend: `auto` takes torch for weights and the file's own runtime for TorchScript and ONNX (ONNX Runtime);
            `openvino` runs ONNX files.
        which: `teacher` or `student` of a training checkpoint.

    Raises:
        FileNotFoundError: there is no such file, or no model in the bundle.
        ArchiveError: a zip file is damaged, too large, or would leave its folder.
        CheckpointError: damaged or foreign files, files that are not those of `SHA256SUMS` beside them,
            weights that are not finite, networks that do not fit together.
        MissingExtraError: the runtime is not installed.
        BackendError: it cannot use the device.
        ValueError: unknown backend or device, or a backend that does not run this kind of file.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    with unzipped(given) as files:
        return _load(files, device, backend, which)


def _load(files: Sequence[Path], device: str | torch.device, backend: str, which: str) -> LoadedModel:
    kind = _check_kinds(files, backend)
    if kind == WEIGHTS:
        return _load_weights(files, device, which)
    return _open_export(files[0], _RUNS[kind][0] if backend in ("auto", "torch") else backend, device, which)


def _check_kinds(files: Sequence[Path], backend: str) -> str:
    """The kind of a model's files, once it is clear that they can be run together and by this backend."""
    from phnet_monai.networks.description import CheckpointError

    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    kinds = [model_kind(file) for file in files]
    for file, kind in zip(files, kinds, strict=True):
        if len(files) > 1 and kind != WEIGHTS:
            raise ValueError(f"{file}: is {kind}, which runs alone; an ensemble is made of checkpoints")
        if backend not in ("auto", *_RUNS[kind]):
            raise ValueError(_other_backend(file, kind, backend))
        named = file.is_file() and file.suffix.lower() == ".ts"
        if kind == TORCHSCRIPT and not (named or backend == TORCHSCRIPT):
            raise CheckpointError(
                f"{file}: is TorchScript, a program that can read and write files, under the name of another kind or "
                "in a bundle; it is not run. If you trust its origin, give the file itself, named `.ts`, or --backend "
                "torchscript."
            )
    return kinds[0] if kinds else WEIGHTS


def model_digest(paths: Sequence[str | Path], *, backend: str = "auto") -> str | list[str]:
    """SHA-256 of the model's file; a list for several. The model is not loaded.

    Raises:
        FileNotFoundError, ArchiveError, CheckpointError, ValueError: as `load_model`, as far as that can be told from
            the kinds of the files and their digests.
    """
    from phnet_monai.networks.digests import check_digest

    with unzipped([Path(path) for path in paths]) as files:
        _check_kinds(files, backend)
        for file in files:
            check_digest(model_file(file))
        return _one_or_all([sha256_of(model_file(file)) for file in files])


def _one_or_all(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


def default_model() -> Path:
    """The model that comes with the package: `models/model.safetensors` of its bundle.

    Raises:
        FileNotFoundError: this installation has none.
    """
    from phnet_monai.shipped import bundle_folder

    path = bundle_folder() / "models" / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: this installation of phnet-monai comes without its default model. Give --model with a checkpoint "
            "of `phnet train`, or reinstall phnet-monai."
        )
    return path


def model_file(path: str | Path) -> Path:
    """The file that holds the model: `path` itself, or the one in the bundle's folder `path`.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        from phnet_monai.networks.description import bundle_model

        return bundle_model(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file, nor TorchScript, ONNX or bundle folder")
    return path


def model_kind(path: str | Path) -> str:
    """`torchscript`, `onnx` or `weights`, by content; what is neither of the first two counts as weights.

    Raises:
        FileNotFoundError: there is no such file or bundle.
    """
    file = model_file(path)
    with file.open("rb") as stream:
        start = stream.read(2)
    if names := zip_names(file):
        return TORCHSCRIPT if any(name.endswith("/constants.pkl") for name in names) else WEIGHTS
    # an ONNX file is a protocol buffer, which has no mark of its own: its first field is the version of the format
    looks_like_onnx = len(start) == 2 and start[0] == 0x08 and start[1] < 0x40
    return ONNX if looks_like_onnx or (file.suffix.lower() == ".onnx" and start[:1] not in (b"P", b"\x80")) else WEIGHTS


def _other_backend(file: Path, kind: str, backend: str) -> str:
    if kind == ONNX:
        return f"{file}: is an ONNX file, which {backend} does not run; give --backend onnx or openvino"
    if kind == TORCHSCRIPT:
        return f"{file}: is a TorchScript file, which {backend} does not run; export its checkpoint by `phnet export`"
    to = "torchscript" if backend == "torchscript" else "onnx"
    out = f"{file.stem or 'model'}.{'ts' if to == 'torchscript' else 'onnx'}"
    return f"{file}: {backend} runs exported models only; run `phnet export {file} {out} --to {to}` and use {out}"


def _load_weights(files: Sequence[Path], device: str | torch.device, which: str) -> LoadedModel:
    from phnet_monai.device import pick_device
    from phnet_monai.networks.checkpoint import load_ensemble
    from phnet_monai.networks.description import CheckpointError
    from phnet_monai.networks.ensemble import network_argument

    device = pick_device(device)  # before the file is read: a wrong name is answered at once
    network, info = load_ensemble(files, device, which)
    for name, expected in (("in_channels", 1), ("num_classes", 2)):
        found = network_argument(network, name)
        if found != expected:
            raise CheckpointError(f"{files[0]}: its network has {name} {found}, inference needs {expected}")
    exported = _exported(info, which, files[0])
    names, digests = [file.resolve().name for file in files], [sha256_of(model_file(file)) for file in files]
    return LoadedModel(
        network=network,
        size=info["input"]["size"],
        pad_value=info["input"]["pad_value"],
        name=_one_or_all(names),
        sha256=_one_or_all(digests),
        backend="torch",
        device=device,
        details={**info, "which": exported},
    )


def _open_export(file: Path, backend: str, device: str | torch.device, which: str) -> LoadedModel:
    from phnet_monai.device import pick_device
    from phnet_monai.inference.backends import open_onnx, open_openvino, open_torchscript
    from phnet_monai.networks.digests import check_digest

    fall_back = device == "auto"
    device = pick_device(device)
    path = model_file(file)
    check_digest(path)
    if backend == "torchscript":
        opened = open_torchscript(path, device)
    else:
        opened = (open_onnx if backend == "onnx" else open_openvino)(path, device, fall_back=fall_back)
    exported = _exported(opened.info, which, path)
    return LoadedModel(
        network=opened.network,
        size=opened.info["input"]["size"],
        pad_value=opened.info["input"]["pad_value"],
        name=file.resolve().name,
        sha256=sha256_of(path),
        backend=backend,
        device=opened.device,
        details={**opened.info, "which": exported},
    )


def _exported(info: dict[str, Any], which: str, path: Path) -> str:
    """Which network an exported file holds. Raises ValueError if the student was asked for and it is the teacher."""
    exported = info.get("which", which)
    if which == "student" and exported != which:
        raise ValueError(f"{path}: holds the {exported}, not the {which}; give the checkpoint, or export its {which}")
    return exported
