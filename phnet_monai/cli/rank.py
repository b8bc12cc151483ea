"""`phnet rank`: which unlabeled images to outline next."""

from __future__ import annotations

from typing import Literal


def rank(
    input: str,
    out: str,
    *,
    model: list[str] | None = None,
    count: int = 20,
    export: Literal["none", "labelme", "coco"] = "none",
    labeled: str | None = None,
    weights: str = "1,1,1",
    threshold: float = 0.5,
    batch_size: int = 16,
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Order unlabeled images by what outlining them would teach the model.

    An image ranks high if the model is unsure of it (hardness of its hardest patches), answers differently to its
    mirror image, and if it is unlike all images that are outlined or chosen before it, so that near-duplicates are not
    asked for twice. Writes OUT/ranking.csv, ranking.json and contact_sheet.png (the chosen images with the model's
    contours). With --export the chosen images are copied to OUT/labelme or OUT/coco with the model's outlines, to be
    corrected in an annotation tool; `phnet prepare folder` reads them back. Exit code: 0 all well, 2 wrong arguments,
    3 some files failed, 4 no image found.

    Args:
        input: picture (PNG, JPEG, BMP, TIFF), folder, or quoted pattern
        out: folder for the results, outside of INPUT
        model: checkpoint of `phnet train` or bundle folder; of several (a.pt,b.pt, or repeated) the mean probability
            counts; the model that comes with phnet where not given
        count: how many images to choose
        export: for which annotation tool to write the chosen images: none, labelme or coco
        labeled: datalist, or folder of outlined images: the chosen ones differ from these, too
        weights: of uncertainty, disagreement and diversity, 0 or more; 0,0,1 is diversity alone, 1,1,0 goes without it
        threshold: a pixel is inside the contours above this probability, between 0 and 1
        batch_size: images per forward pass
        device: auto, cpu, cuda, cuda:1, ...
        overwrite: replace an earlier ranking; exported outlines are never replaced
        quiet: no progress bar, no summary
    """
    import sys

    from phnet_monai.cli.inputs import model_files
    from phnet_monai.files import terminal_text
    from phnet_monai.inference.rank_inputs import check_rank_out, find_pool

    pool = find_pool(input, out, labeled)
    wanted = None if export == "none" else export
    check_rank_out(out, export=wanted, overwrite=overwrite)
    numbers = _weights(weights)
    if not 0 < threshold < 1:
        raise ValueError(f"--threshold must lie between 0 and 1, found {threshold}")
    for name, value in (("--count", count), ("--batch-size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}")
    models = model_files(model)
    if not pool.candidates and pool.unreadable:
        for name, reason in pool.unreadable:
            print(terminal_text(f"failed: {name}: {reason}"), file=sys.stderr)
        return 3
    if not pool.candidates:
        others = f" ({pool.passed_over} pictures are outlined already)" if pool.passed_over else ""
        if pool.unread:
            others += f"; annotation tools do not open its {pool.unread} NIfTI or DICOM files: convert them to PNG"
        print(
            f"phnet: nothing to do: {input} holds no unlabeled picture (PNG, JPEG, BMP, TIFF){others}", file=sys.stderr
        )
        return 4

    from phnet_monai.inference import Predictor
    from phnet_monai.inference.examiner import Examiner
    from phnet_monai.inference.rank_folder import rank_pool
    from phnet_monai.inference.ranking import Weights

    examiner = Examiner(Predictor.from_model(models, device, batch_size=batch_size))
    result = rank_pool(
        pool,
        out,
        examiner,
        count=count,
        weights=Weights(*numbers),
        export=wanted,
        threshold=threshold,
        overwrite=overwrite,
        quiet=quiet,
    )
    return result.exit_code


def _weights(text: str) -> tuple[float, float, float]:
    """`1,1,0.5` -> (1.0, 1.0, 0.5)."""
    import math

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"--weights must be three numbers of 0 or more, such as 1,1,1, found {text!r}")
    return numbers[0], numbers[1], numbers[2]
