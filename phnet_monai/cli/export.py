"""`phnet export`: a trained network for other runtimes."""

from __future__ import annotations

from typing import Literal


def export(
    model: list[str],
    out: str,
    *,
    to: Literal["torchscript", "onnx", "safetensors"] | None = None,
    which: Literal["teacher", "student"] = "teacher",
    size: int | None = None,
    check: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write a trained network as TorchScript, ONNX or safetensors, for `phnet infer --model OUT` and others.

    The file takes images (B, 1, S, S) in [0, 1], answers by logits (B, 2, S, S), and tells how images are fitted to S.
    It is compared with the model before it is kept: the largest difference of a probability is printed, and above
    0.0001 nothing is written. Several models (a.pt b.pt OUT) of the same input become one network.

    Args:
        model: checkpoint of `phnet train`, plain weights, or bundle folder
        out: the new file
        to: torchscript (.ts), onnx (.onnx) or safetensors (.safetensors); by default what the ending of OUT says
        which: the network that the training evaluated (teacher) or the trained one (student)
        size: side of the input in pixels; that of the training where not given
        check: picture, DICOM or NIfTI file to compare on, or a folder, of which 64 are taken; phantoms where not given
        overwrite: replace OUT
    """
    from phnet_monai.cli.inputs import model_files

    files = model_files(model)
    kind = kind_of(out) if to is None else to

    from phnet_monai.inference.exports import TOLERANCE, export_model

    done = export_model(files, out, kind, size=size, which=which, check=check, overwrite=overwrite)
    images = "phantoms" if check is None else "images"
    print(
        f"{done.path}: {done.kind}, input {done.size} x {done.size}, {done.path.stat().st_size / 1e6:.1f} MB, "
        f"sha256 {done.sha256}"
    )
    compared = f"largest difference of a probability on {done.images} {images}"
    print(f"{compared}: {done.difference:.1e} (allowed {TOLERANCE:.0e})")
    if kind == "torchscript" and not out.lower().endswith(".ts"):
        print(f"{done.path}: phnet infer takes a program under this name with --backend torchscript only")
    return 0


def kind_of(out: str) -> str:
    """The kind of export that the ending of `out` stands for.

    Raises:
        ValueError: for none, or (.pt) for more than one.
    """
    kinds = {".ts": "torchscript", ".onnx": "onnx", ".safetensors": "safetensors"}
    for ending, kind in kinds.items():
        if out.lower().endswith(ending):
            return kind
    raise ValueError(
        f"{out}: its ending does not tell the kind of export; give --to, or an ending of {', '.join(kinds)}"
    )
