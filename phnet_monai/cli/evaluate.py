"""`phnet evaluate`: how good a trained network is on one part of a datalist."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def evaluate(
    checkpoint: list[str],
    datalist: str,
    out: str,
    *,
    part: Literal["test", "validation", "labeled", "unlabeled"] = "test",
    which: Literal["teacher", "student"] = "teacher",
    batch_size: int = 8,
    device: str = "auto",
    report: bool = False,
    overwrite: bool = False,
    allow_leak: bool = False,
) -> int:
    """Score a trained network, or several as one ensemble, on one part of a datalist.

    Writes the scores per image and their summary to OUT, with --report a page to look through. Several checkpoints
    (a.pt b.pt c.pt DATALIST OUT) answer by their mean probability; their networks may be of different kinds and input
    sizes.

    Args:
        checkpoint: file written by `phnet train`, or several of them; a bundle folder; default: the model that comes
            with phnet
        datalist: the JSON file written by `phnet prepare`, or its folder
        out: folder for the scores
        part: which images; unlabeled ones are scored against their hidden masks
        which: the network that the training evaluated (teacher) or the trained one (student)
        batch_size: images per forward pass
        device: auto, cpu, cuda, cuda:1, ...
        report: also write OUT/report.html, every image with both outlines, worst Dice first
        overwrite: replace the scores that OUT holds, and their report
        allow_leak: score although one image, patient or scan is on two sides of the split
    """
    from phnet_monai.cli.inputs import datalist_file, model_files
    from phnet_monai.files import check_out, terminal_lines

    files = model_files(checkpoint)
    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, found {batch_size}")
    list_file = datalist_file(datalist)
    check_out(out)
    if (Path(out) / "summary.json").exists() and not overwrite:
        raise FileExistsError(f"{out} holds earlier scores. Choose another folder, or replace them with --overwrite.")

    from phnet_monai.engines.run import evaluate_run
    from phnet_monai.metrics import format_summary

    summary = evaluate_run(
        files,
        list_file,
        out,
        part=part,
        device=device,
        batch_size=batch_size,
        which=which,
        allow_leak=allow_leak,
    )
    print(terminal_lines(format_summary(summary)))
    (Path(out) / "report.html").unlink(missing_ok=True)  # an earlier one is of the earlier scores
    if report:
        from phnet_monai.inference import Predictor
        from phnet_monai.inference.evaluation import report_evaluation

        predictor = Predictor.from_model(files, device, which=which, batch_size=batch_size)
        print(f"\n{report_evaluation(predictor, list_file, out, summary, part=part)}")
    return 0
