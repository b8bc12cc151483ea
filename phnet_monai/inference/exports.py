"""Trained networks as files for other runtimes: TorchScript, ONNX, safetensors.

The exported network takes a fixed square input, (B, 1, S, S) float32 in [0, 1] with any B, and answers by logits
(B, 2, S, S). The file tells how images meet it: input size, padding, network arguments, hash of the source, version;
`load_model` and `phnet infer` need nothing else. Every file is read back and compared with its source before it is
kept.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phnet_monai import __version__
from phnet_monai.data import make_phantom
from phnet_monai.data.decode import NoImageError
from phnet_monai.data.scan import SCAN_ENDINGS, read_scan
from phnet_monai.extras import extra_module
from phnet_monai.files import atomic_writer, sha256_of
from phnet_monai.inference.backends import without_warnings
from phnet_monai.inference.files import find_scans
from phnet_monai.inference.models import TORCHSCRIPT, WEIGHTS, load_model, model_file, model_kind
from phnet_monai.inference.predictor import lesion_probs
from phnet_monai.inference.zipped import unzipped
from phnet_monai.networks.description import INFO_KEY, CheckpointError, info_text
from phnet_monai.networks.tensor_file import safetensors_bytes
from phnet_monai.transforms.fit import fit_image

ENDINGS = {"torchscript": (".ts", ".pt"), "onnx": (".onnx",), "safetensors": (".safetensors",)}
"""Kind of export -> endings of its files."""
TOLERANCE = 1e-4
"""Largest difference of a probability between the exported network and its source; rounding alone gives about 1e-6."""
PHANTOMS = 4
CHECK_FRAMES = 8
"""Frames of one clip or volume that are compared: its first ones; they resemble each other."""
CHECK_FILES = 64
"""Files of a folder that are compared, evenly from all of it: more would take long and tell no more."""
_BATCH = 4


@dataclass(frozen=True)
class Exported:
    """What `export_model` wrote: `difference` is the largest one of a probability over `images` images."""

    path: Path
    kind: str
    size: int
    sha256: str
    images: int
    difference: float


def export_model(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    to: str,
    *,
    size: int | None = None,
    which: str = "teacher",
    check: str | Path | None = None,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> Exported:
    """Write the network of `source` to the file `out`, and compare the two.

    Args:
        source: a checkpoint of `phnet train`, weights or a bundle folder (`load_model`), or several checkpoints of the
            same input as one ensemble.
        out: the new file; its ending must be one of the kind's (`ENDINGS`).
        to: `torchscript`, `onnx` or `safetensors` (weights and network arguments, for this package).
        size: side S of the input; None: that of the training.
        which: `teacher` or `student`.
        check: a picture, DICOM or NIfTI file, or a folder of them, to compare on (of a folder `CHECK_FILES`
            files, of each the first `CHECK_FRAMES` frames); None: a few phantoms.
        tolerance: largest difference of a probability that is let pass.
        overwrite: replace an existing file.

    Raises:
        FileNotFoundError, FileExistsError: `source` or `check` is missing or has no image; `out` is there.
        ValueError: unknown kind, wrong ending, sources that are no checkpoints or differ in their input.
        DecodeError: an image of `check` cannot be read.
        CheckpointError: `source` cannot be used, or the export differs by more than `tolerance`; then no file is kept.
        MissingExtraError: the libraries of the kind, or for DICOM in `check`, are not installed.
    """
    given = [Path(path) for path in ([source] if isinstance(source, (str, Path)) else source)]
    with unzipped(given) as sources:
        return _export(
            sources, Path(out), to, size=size, which=which, check=check, tolerance=tolerance, overwrite=overwrite
        )


def _export(
    sources: Sequence[Path],
    out: Path,
    to: str,
    *,
    size: int | None,
    which: str,
    check: str | Path | None,
    tolerance: float,
    overwrite: bool,
) -> Exported:
    _check_request(sources, out, to, overwrite)
    scans = _scans(check)
    model = load_model(sources, device="cpu", backend="torch", which=which)
    assert isinstance(model.network, nn.Module)  # as of all weights
    if model.size is None or model.pad_value is None:
        raise ValueError(
            f"{sources[0]} and the others have inputs of different sizes or padding; export them one by one"
        )
    side = model.size if size is None else size
    if side < 1:
        raise ValueError(f"size must be at least 1, found {side}")
    entry = {"size": side, "pad_value": model.pad_value}
    origin = {"source": model.name, "source_sha256": model.sha256, "exported_by": f"phnet-monai {__version__}"}
    content = _WRITERS[to](model.network, {**model.details, "input": entry, **origin})
    with atomic_writer(out) as stream:
        stream.write(content)
        stream.flush()
        network = load_model(stream.name, device="cpu", backend=to if to == TORCHSCRIPT else "auto").network
        count, difference = _compare(model.network, network, _batches(scans, side, model.pad_value))
        if not count:
            raise _no_image(check)
        if not difference <= tolerance:
            raise CheckpointError(
                f"{out}: not written, since its probabilities differ from those of {sources[0]} by up to "
                f"{difference:.1e}, allowed {tolerance:.1e}"
            )
    return Exported(out, to, side, sha256_of(out), count, difference)


def _check_request(sources: Sequence[str | Path], out: Path, to: str, overwrite: bool) -> None:
    """Refuse what cannot work before anything is loaded."""
    if to not in ENDINGS:
        raise ValueError(f"cannot export to {to!r}; choose one of {', '.join(ENDINGS)}")
    if out.suffix.lower() not in ENDINGS[to]:
        raise ValueError(f"{out}: a {to} file ends in {' or '.join(ENDINGS[to])}")
    if to == "safetensors" and len(sources) > 1:
        raise ValueError("safetensors hold the weights of one checkpoint; export an ensemble as torchscript or onnx")
    for source in sources:
        if (kind := model_kind(source)) != WEIGHTS:
            raise ValueError(f"{source}: is {kind} already; export the checkpoint that it was made of")
    if any(out.resolve() == model_file(source).resolve() for source in sources):
        raise FileExistsError(f"{out}: is the model itself; choose another name for its export")
    if out.is_dir() or (out.exists() and not overwrite):
        raise FileExistsError(f"{out}: exists; choose another name, or give --overwrite")
    if to == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            extra_module(name, "onnx", purpose="the export to ONNX")


def _scans(check: str | Path | None) -> list[Path] | None:
    """The files to compare on; None: phantoms."""
    if check is None:
        return None
    sources = find_scans(check)
    if not sources.scans:
        raise _no_image(check)
    found = sorted(sources.folder / scan for scan in sources.scans)
    count = min(len(found), CHECK_FILES)
    return [found[number * len(found) // count] for number in range(count)]


def _no_image(check: str | Path | None) -> FileNotFoundError:
    return FileNotFoundError(
        f"{check}: no image to compare on; give an image or a folder ({', '.join(SCAN_ENDINGS)}, or DICOM of any name)"
    )


# --- the kinds


def _torchscript(network: nn.Module, info: dict[str, Any]) -> bytes:
    """Traced, which works for every encoder at a fixed size; metadata as MONAI's `ckpt_export` embeds it."""
    from monai.data.torchscript_utils import save_net_with_metadata

    size, stream = info["input"]["size"], io.BytesIO()
    with without_warnings(), torch.no_grad():
        traced = torch.jit.trace(network, _example(size), check_trace=False)
        save_net_with_metadata(traced, stream, meta_values={INFO_KEY: info, "network_data_format": _data_format(size)})
    return stream.getvalue()


def _onnx(network: nn.Module, info: dict[str, Any]) -> bytes:
    import onnx

    if "dynamic_shapes" not in inspect.signature(torch.onnx.export).parameters:
        raise ValueError(f"the export to ONNX needs torch 2.6 or newer, found {torch.__version__}")
    batch = torch.export.Dim("batch", min=1)
    with without_warnings(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (_example(info["input"]["size"]),),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # as long as no file is named
    model = program.model_proto
    _without_traces(model)
    onnx.helper.set_model_props(model, {INFO_KEY: info_text(info)})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _without_traces(model: Any) -> None:
    """Drop what the exporter notes of the source code: it names folders of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("doc_string")
        if "metadata_props" in part.DESCRIPTOR.fields_by_name:  # newer versions of onnx have it in more places
            part.ClearField("metadata_props")


def _safetensors(network: nn.Module, info: dict[str, Any]) -> bytes:
    return safetensors_bytes(network.state_dict(), info)


_WRITERS: dict[str, Callable[[nn.Module, dict[str, Any]], bytes]] = {
    "torchscript": _torchscript,
    "onnx": _onnx,
    "safetensors": _safetensors,
}


def _example(size: int) -> Tensor:
    """Two images, since a batch of one would be taken for a constant."""
    return torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0))


def _data_format(size: int) -> dict[str, Any]:
    """Inputs and outputs in the words of MONAI's bundle metadata."""
    common = {"type": "image", "spatial_shape": [size, size], "dtype": "float32", "is_patch_data": False}
    image = {
        "format": "magnitude",
        "modality": "US",
        "num_channels": 1,
        "value_range": [0, 1],
        "channel_def": {"0": "image"},
    }
    pred = {
        "format": "segmentation",
        "num_channels": 2,
        "value_range": [],
        "channel_def": {"0": "background", "1": "lesion"},
    }
    return {"inputs": {"image": {**common, **image}}, "outputs": {"pred": {**common, **pred}}}


# --- the comparison


@torch.inference_mode()
def _compare(
    first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor], batches: Iterable[Tensor]
) -> tuple[int, float]:
    """Number of images, and the largest difference of a probability between the two networks on them."""
    count, largest = 0, 0.0
    for batch in batches:
        difference = lesion_probs(first(batch)) - lesion_probs(second(batch))
        count, largest = count + len(batch), max(largest, float(difference.abs().max()))
    return count, largest


def _batches(scans: list[Path] | None, size: int, pad_value: float) -> Iterator[Tensor]:
    """Network inputs: the first image alone, the others in batches, so that two batch sizes are tried."""
    inputs = (fit_image(pixels, size, pad_value) for pixels in _pixels(scans))
    count = 1
    while batch := list(islice(inputs, count)):
        yield torch.stack(batch)
        count = _BATCH


def _pixels(scans: list[Path] | None) -> Iterator[np.ndarray]:
    """uint8 (H, W): phantoms, or the first frames of each scan; DICOM objects without image are passed over."""
    if scans is None:
        yield from (make_phantom((200 + 40 * number, 300), seed=number)[0] for number in range(PHANTOMS))
        return
    for scan in scans:
        try:
            frames = read_scan(scan).frames
        except NoImageError:
            if len(scans) == 1:  # asked for by name: its reason is the answer
                raise
            continue
        yield from frames[:CHECK_FRAMES]
