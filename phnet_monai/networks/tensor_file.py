"""Weights as a safetensors file: tensors and text only, no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from phnet_monai.networks.description import INFO_KEY, CheckpointError, info_text, parse_info

_HEADER_BYTES = 9


def is_safetensors(path: str | Path) -> bool:
    """Whether the file begins as safetensors do: the length of a header below 100 MB, and the brace that opens it."""
    with open(path, "rb") as stream:
        start = stream.read(_HEADER_BYTES)
    return len(start) == _HEADER_BYTES and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000


def read_safetensors(path: str | Path) -> dict[str, Any]:
    """Content in the form of a checkpoint: {"student": weights, "info": ...}; the bare weights where it has no info.

    Raises:
        CheckpointError: truncated, or of another form.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({error}). It begins like safetensors; a truncated file must be "
            "replaced."
        ) from error
    return {"student": weights, "info": parse_info(metadata[INFO_KEY], path)} if INFO_KEY in metadata else weights


def safetensors_bytes(weights: dict[str, Tensor], info: dict[str, Any]) -> bytes:
    """The content of a safetensors file that `read_safetensors` reads back."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return save(tensors, metadata={"format": "pt", INFO_KEY: info_text(info)})
