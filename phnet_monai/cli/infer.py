"""`phnet infer`: segment an image or a folder of images."""

from __future__ import annotations

from typing import Any, Literal


def infer(
    input: str,
    out: str,
    *,
    model: list[str] | None = None,
    overlays: bool = True,
    hardness: bool = False,
    probabilities: bool = False,
    report: bool = True,
    threshold: float = 0.5,
    min_area_px: float = 0,
    min_area_mm2: float = 0,
    fill_holes: bool = False,
    largest_only: bool = False,
    spacing_mm: float | None = None,
    flip: bool = False,
    anonymize: bool = False,
    backend: Literal["auto", "torch", "torchscript", "onnx", "openvino"] = "auto",
    batch_size: int = 16,
    device: str = "auto",
    limit: int | None = None,
    overwrite: bool = False,
    fail_fast: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> int:
    """Segment an image, or all images of a folder and its subfolders.

    INPUT is a file, a folder or a quoted pattern ('scans/**/*.dcm') of PNG, JPEG, BMP, TIFF, NIfTI or DICOM. Writes
    OUT/masks (PNG; NIfTI for NIfTI; DICOM SEG for DICOM), OUT/overlays, lesions.csv and lesions.json (a row per
    lesion), report.html and run.json. Where x.jpg and x.png lie in one folder, their results are x.jpg.png and
    x.png.png. Finished images are passed over; those whose results are damaged or whose file has changed are done
    again. A file that cannot be read is reported and does not stop the others. Exit code: 0 all well, 2 wrong
    arguments, 3 some files failed, 4 no image found, 5 disk full, 130 Ctrl-C, 143 SIGTERM.

    Args:
        input: image, folder, or quoted pattern
        out: folder for the results, outside of INPUT
        model: checkpoint of `phnet train`, bundle (folder or zip), TorchScript or ONNX file; of several checkpoints
            (a.pt,b.pt, or repeated) the mean probability counts; the model that comes with phnet where not given
        overlays: draw the contour on the image
        hardness: also write OUT/hardness, the image coloured by how unsure the model is
        probabilities: also write OUT/probabilities (PNG 8-bit; NIfTI and DICOM SEG as numbers)
        report: write report.html
        threshold: a pixel is lesion above this probability, between 0 and 1
        min_area_px: leave out smaller lesions, in pixels
        min_area_mm2: leave out smaller lesions, in mm2; every image must tell its spacing, or give --spacing-mm
        fill_holes: fill holes in lesions
        largest_only: keep the largest lesion only
        spacing_mm: distance between pixels in mm, of images that do not tell it themselves
        flip: mean of the answers to the image and its mirror image; twice the time
        anonymize: replace file names by hashes of the files' content
        backend: what runs the network; onnx and openvino take an ONNX file of `phnet export`, torchscript a program
            that is not named .ts
        batch_size: images per forward pass; halved where memory does not suffice
        device: auto, cpu, cuda, cuda:1, ...
        limit: do at most this many images now
        overwrite: do finished images again, and replace the results of another model
        fail_fast: stop at the first image that fails
        dry_run: only list what would be done
        quiet: no progress bar, no summary
    """
    import sys

    from phnet_monai.cli.inputs import model_files
    from phnet_monai.inference.files import check_paths, find_scans

    source, _ = check_paths(input, out)
    _check_numbers(
        threshold=threshold,
        batch_size=batch_size,
        limit=limit,
        spacing_mm=spacing_mm,
        min_area_px=min_area_px,
        min_area_mm2=min_area_mm2,
    )
    models = model_files(model)
    sources = find_scans(source)
    if not sources.scans and not sources.unreadable:
        what = f"{input} holds no image"
        if not source.exists():
            what = f"no image matches the pattern {input} (a bracket of a name is written [[])"
        elif sources.results:
            what += " but in folders of earlier results, which are passed over"
        print(f"phnet: nothing to do: {what}; expected PNG, JPEG, BMP, TIFF, NIfTI or DICOM", file=sys.stderr)
        return 4
    wanted = {"overlays": overlays, "hardness": hardness, "probabilities": probabilities}

    from phnet_monai.distributed import current_shard
    from phnet_monai.inference import FrameSettings, Postprocess

    cleaning = Postprocess(
        min_area_px=min_area_px, min_area_mm2=min_area_mm2, fill_holes=fill_holes, largest_only=largest_only
    )
    settings = FrameSettings(threshold, cleaning, spacing_mm)
    if dry_run:
        told = {**settings.as_settings(), "flip": flip}
        if current_shard().first:
            choice: dict[str, Any] = {"overwrite": overwrite, "anonymize": anonymize, "limit": limit}
            _tell_what_would_be_done(input, out, models, device, backend, wanted, told, choice)
        return 0

    from phnet_monai.inference import Predictor, infer_folder

    predictor = Predictor.from_model(models, own_device(device), backend=backend, batch_size=batch_size, flip=flip)
    result = infer_folder(
        input,
        out,
        predictor,
        **wanted,
        settings=settings,
        report=report,
        anonymize=anonymize,
        overwrite=overwrite,
        limit=limit,
        fail_fast=fail_fast,
        quiet=quiet,
    )
    # torchrun takes any other code of a process for its death, and ends all
    return result.exit_code if current_shard().first else 0


def _tell_what_would_be_done(
    input: str,
    out: str,
    models: list[str],
    device: str,
    backend: str,
    wanted: dict[str, bool],
    told: dict[str, Any],
    choice: dict[str, Any],
) -> None:
    """`--dry-run`: refuse what can be refused without the model, and list the images."""
    from phnet_monai.device import pick_device
    from phnet_monai.files import terminal_text
    from phnet_monai.inference.folder import preview
    from phnet_monai.inference.models import model_digest

    pick_device(device)
    told = {**told, "model_sha256": model_digest(models, backend=backend)}
    told |= {"backend": backend} if backend in ("onnx", "openvino") else {}  # torch runs TorchScript, too
    kinds = ["masks", *(kind for kind, asked in wanted.items() if asked)]
    for line in preview(input, out, kinds=kinds, settings=told, **choice):
        print(terminal_text(line))


def own_device(name: str) -> str:
    """`auto` under `torchrun`: each process takes the GPU of its own number, where there are any."""
    from phnet_monai.distributed import current_shard

    shard = current_shard()
    if name != "auto" or shard.world == 1:
        return name
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{shard.local % count}" if count else "cpu"


def _check_numbers(**values: float | None) -> None:
    """Refuse numbers out of range before anything is loaded."""
    threshold = values["threshold"]
    if threshold is None or not 0 < threshold < 1:
        raise ValueError(f"--threshold must lie between 0 and 1, found {threshold}")
    lowest = {"batch_size": 1, "limit": 1, "min_area_px": 0, "min_area_mm2": 0}
    for name, low in lowest.items():
        value = values[name]
        if value is not None and value < low:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {low}, found {value}")
    if values["spacing_mm"] is not None and values["spacing_mm"] <= 0:
        raise ValueError(f"--spacing-mm must be above 0, found {values['spacing_mm']}")
