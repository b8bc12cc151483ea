"""Exported networks, run by TorchScript, ONNX Runtime or OpenVINO: functions (B, 1, S, S) -> logits (B, 2, S, S).

Each is opened with what its file tells of it (`networks.description`) and tried once, so that a file of another kind
is refused before any image is read.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from phnet_monai.extras import extra_module
from phnet_monai.networks.description import INFO_KEY, CheckpointError, check_info, config_info, parse_info


class BackendError(ValueError):
    """A runtime cannot use the device."""


class Opened(NamedTuple):
    """An exported network ready to run.

    Attributes:
        network: (B, 1, S, S) float32 in [0, 1] -> logits (B, 2, S, S) float32, on the CPU or on `device`.
        info: what the file tells: `input` (`size`, `pad_value`; both None where the network fits images itself), ...
        device: where it runs.
    """

    network: Callable[[Tensor], Tensor]
    info: dict[str, Any]
    device: torch.device


# --- TorchScript


@contextmanager
def without_warnings() -> Iterator[None]:
    """No warnings: torch calls TorchScript deprecated at every use, which a user of this package cannot help."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class TorchScriptRunner:
    """A TorchScript module, its weights made constants of its graph; on the CPU in the layout convolutions prefer."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
        self.device, self.layout = device, layout
        with without_warnings():
            self.module = torch.jit.freeze(module.eval().to(memory_format=layout))

    def __call__(self, images: Tensor) -> Tensor:
        return self.module(images.to(self.device, memory_format=self.layout)).float()


def open_torchscript(path: str | Path, device: torch.device) -> Opened:
    """Load a TorchScript file of `phnet export` or of MONAI's `ckpt_export` of this project's bundle.

    TorchScript is a program: load files of trusted origin only. The runtime keeps it to tensor operations, but no
    more than that is known of what it does.

    Raises:
        CheckpointError: damaged, NaN weights, nothing known of its input, or other inputs and outputs.
    """
    extra: dict[str, Any] = {"metadata.json": "", "inference.json": ""}
    try:
        with without_warnings():
            module = torch.jit.load(str(path), map_location=device, _extra_files=extra)
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable TorchScript file ({_first_line(error)})") from error
    bad = [n for n, t in module.state_dict().items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if bad:
        raise CheckpointError(f"{path}: {len(bad)} tensors hold NaN or infinite values, e.g. {bad[0]}")
    info = _torchscript_info(extra, path)
    try:
        runner = TorchScriptRunner(module, device)
    except (RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its program cannot be prepared ({_first_line(error)})") from error
    check_answer(runner, info["input"]["size"], path)
    return Opened(runner, info, device)


def _torchscript_info(extra: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """From the metadata of `phnet export`, else from the config that MONAI's `ckpt_export` embeds, read as data."""
    texts = {name: content for name, content in extra.items() if content}
    try:
        files = {name: json.loads(content) for name, content in texts.items()}
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its embedded metadata is no JSON ({error})") from error
    if not all(isinstance(content, dict) for content in files.values()):
        raise CheckpointError(f"{path}: its embedded metadata is no JSON object")
    if INFO_KEY in files.get("metadata.json", {}):
        return check_info(files["metadata.json"][INFO_KEY], path, network=False)
    if "inference.json" in files:
        info = config_info(files["inference.json"], f"{path}, embedded inference.json")
        return {**info, "input": {"size": None, "pad_value": None}} if info["fits_itself"] else info
    raise CheckpointError(
        f"{path}: tells neither the size nor the padding of its input; expected a file of `phnet export` or of MONAI's "
        "`ckpt_export` of a bundle of this package"
    )


# --- ONNX Runtime


class OnnxRunner:
    """A session of ONNX Runtime; images and answers are shared with it, not copied."""

    own_threads = True

    def __init__(self, session: Any) -> None:
        self.session = session
        self.input = session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> Tensor:
        [logits] = self.session.run(None, {self.input: images.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(logits)


def open_onnx(path: str | Path, device: torch.device, *, fall_back: bool = False) -> Opened:
    """Load an ONNX file of `phnet export` into ONNX Runtime, on as many threads as torch uses.

    Args:
        fall_back: use the CPU where `device` is a GPU that this ONNX Runtime cannot use.

    Raises:
        MissingExtraError: ONNX Runtime is missing.
        BackendError: it has no CUDA where `device` asks for it.
        CheckpointError: damaged, not of `phnet export`, or other inputs and outputs.
    """
    runtime = extra_module("onnxruntime", "onnx", purpose="running an ONNX file")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    elif device.type != "cpu" and not fall_back:
        raise BackendError(f"this ONNX Runtime cannot use {device}; install onnxruntime-gpu, or give --device cpu")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4  # what goes wrong is raised, too
    # waiting threads give way to those that read and write images, at the same speed of the network
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # as bytes: a file that refers to others beside it is refused
        session = runtime.InferenceSession(Path(path).read_bytes(), options, providers=providers)
    except Exception as error:  # its errors have no class in common
        raise CheckpointError(f"{path}: not a readable ONNX file ({_first_line(error)})") from error
    text = session.get_modelmeta().custom_metadata_map.get(INFO_KEY)
    ends = [[(end.type, end.shape) for end in side] for side in (session.get_inputs(), session.get_outputs())]
    info = _onnx_info(text, ends, path)
    runner = OnnxRunner(session)
    check_answer(runner, info["input"]["size"], path)
    used = device if len(session.get_providers()) > 1 else torch.device("cpu")
    return Opened(runner, info, used)


def _onnx_info(text: str | None, ends: Sequence[Sequence[tuple[str, Any]]], path: str | Path) -> dict[str, Any]:
    """The embedded info, once inputs and outputs ([(type, shape)] each) are those of `phnet export`."""
    if not text:
        raise CheckpointError(f"{path}: tells nothing of its input; expected an ONNX file of `phnet export`")
    info = parse_info(text, path, network=False)
    size = info["input"]["size"]
    for side, channels, found in zip(("input", "output"), (1, 2), ends, strict=True):
        fits = len(found) == 1 and "float" in found[0][0] and list(found[0][1])[1:] == [channels, size, size]
        if not fits:
            raise CheckpointError(f"{path}: has the {side} {found}, expected float (B, {channels}, {size}, {size})")
    return info


# --- OpenVINO


class OpenVinoRunner:
    """A network compiled by OpenVINO; a batch is split over its streams."""

    own_threads = True

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        queue.set_callback(self._keep)
        self.answers: dict[int, Tensor] = {}

    def __call__(self, images: Tensor) -> Tensor:
        parts = images.detach().cpu().contiguous().tensor_split(min(len(images), len(self.queue)))
        self.answers = {}
        for index, part in enumerate(parts):
            self.queue.start_async({0: part.numpy()}, index, share_inputs=True)
        self.queue.wait_all()
        return torch.cat([self.answers[index] for index in range(len(parts))])

    def _keep(self, request: Any, index: int) -> None:
        self.answers[index] = torch.from_numpy(request.get_output_tensor().data.copy())  # the buffer is used again


def open_openvino(path: str | Path, device: torch.device, *, fall_back: bool = False) -> Opened:
    """Load an ONNX file of `phnet export` into OpenVINO, on as many CPU threads as torch uses, in float32.

    Args:
        fall_back: use the CPU where `device` is another.

    Raises:
        MissingExtraError: OpenVINO is missing.
        BackendError: `device` is not the CPU.
        CheckpointError: damaged, not of `phnet export`, or other inputs and outputs.
    """
    openvino = extra_module("openvino", "openvino", purpose="--backend openvino")
    if device.type != "cpu" and not fall_back:
        raise BackendError(f"OpenVINO is used on the CPU only, found device {device}; give --device cpu")
    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 would be its choice on some processors
    }
    try:
        model = core.read_model(Path(path).read_bytes(), b"")
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not a readable ONNX file ({_first_line(error)})") from error
    entry = ["framework", INFO_KEY]  # where OpenVINO puts the metadata of an ONNX file
    text = model.get_rt_info(entry).astype(str) if model.has_rt_info(entry) else None
    ends = [[(_float_name(end), _shape(end)) for end in side] for side in (model.inputs, model.outputs)]
    info = _onnx_info(text, ends, path)
    runner = OpenVinoRunner(openvino.AsyncInferQueue(compiled))
    check_answer(runner, info["input"]["size"], path)
    return Opened(runner, info, torch.device("cpu"))


def _float_name(end: Any) -> str:
    return "float" if end.element_type.get_type_name() == "f32" else end.element_type.get_type_name()


def _shape(end: Any) -> list[int | None]:
    return [None if side.is_dynamic else side.get_length() for side in end.partial_shape]


# --- all of them


def check_answer(network: Callable[[Tensor], Tensor], size: int | None, path: str | Path) -> None:
    """Run the network once on a grey image.

    Raises:
        CheckpointError: it fails, or its answer is not what logits of a lesion are.
    """
    height, width = (size, size) if size else (48, 64)
    try:
        with torch.inference_mode():
            logits = network(torch.full((1, 1, height, width), 0.5))
    except Exception as error:  # whatever a foreign network raises
        raise CheckpointError(f"{path}: does not take (1, 1, {height}, {width}) ({_first_line(error)})") from error
    if tuple(logits.shape) != (1, 2, height, width):
        raise CheckpointError(
            f"{path}: answers (1, 1, {height}, {width}) by {tuple(logits.shape)}, expected (1, 2, {height}, {width})"
        )
    if not bool(torch.isfinite(logits).all()):
        raise CheckpointError(f"{path}: answers by NaN or infinite values; the training diverged, or it is damaged")


def _first_line(error: BaseException) -> str:
    """The first line of a message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
