"""`phnet compare`: methods, fractions and seeds against each other, with statistics."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Literal


def compare(
    data: str,
    out: str,
    *,
    layout: Literal["auto", "busi", "busbra", "folder"] = "auto",
    matrix: str | None = None,
    preset: Literal["table1", "table2", "table3a", "table3b", "table3c", "fig8", "fig8_paper", "decisions", "plus"]
    | None = None,
    methods: list[str] | None = None,
    labeled: list[str] | None = None,
    seeds: list[str] | None = None,
    profiles: list[str] | None = None,
    folds: int | None = None,
    reference: str | None = None,
    recipe: Literal["harmonised", "native"] = "harmonised",
    jobs: int = 1,
    threads: int | None = None,
    work: str | None = None,
    device: str = "auto",
    part: Literal["test", "validation"] = "test",
    checkpoint: Literal["last", "best"] = "last",
    pictures: bool = True,
    report_only: bool = False,
    allow_leak: bool = False,
    quiet: bool = False,
    **overrides: Any,
) -> int:
    """Train methods against each other and write tables, statistics and figures to OUT/report.

    Finished trainings in OUT are kept, half-finished ones resumed: after any stop, the same command goes on.
    All methods of one fraction and seed start from the same labeled-only training.

    Args:
        data: data set in its original layout, as for `phnet prepare`
        out: folder of the comparison
        layout: of the data set; auto looks
        matrix: JSON file with rows, fractions, seeds, ... (docs/comparison.md)
        preset: a table or figure of the paper
        methods: sup_only_ema,phnet,... ; METHOD:native takes the recipe of the method's authors
        labeled: fractions or numbers of labeled images: 1/8,1/4
        seeds: whole numbers: 0,1,2; each draws labeled images, weights and views
        profiles: cpu, paper, smoke
        folds: cross-validation with that many folds instead of the one split
        reference: the row that all others are tested against; phnet where it takes part
        recipe: harmonised trains every method by PH-Net's protocol, native by its authors'
        jobs: trainings at a time
        threads: processor threads of each; the cores divided by the jobs where not given
        work: folder for datalists and checkpoints; OUT/work where not given
        device: auto, cpu, cuda, cuda:1, ...
        part: images that the report scores
        checkpoint: which one the report shows: the last, or the best on the validation images
        pictures: show test images with masks and probabilities in the report; without, it can be handed on
            where the images may not
        report_only: only write the report of what is finished
        allow_leak: go on although a datalist in WORK has one image, patient or scan on two sides
        quiet: no progress bar
        overrides: values of the configuration for all trainings, by their ids: --max_epochs 12
    """
    from phnet_monai.files import check_out, terminal_lines, terminal_text

    given = {
        "rows": _words(methods),
        "labeled": _words(labeled),
        "seeds": _numbers(_words(seeds)),
        "profiles": _words(profiles),
        "folds": folds,
        "reference": reference,
    }
    asked = {**given, "reference": None, "matrix": matrix, "preset": preset, "threads": threads, **overrides}
    changed = recipe != "harmonised" or layout != "auto" or jobs != 1 or allow_leak
    if report_only and (changed or any(value is not None for value in asked.values())):
        raise ValueError("--report-only shows what was trained; it takes neither rows nor settings")
    if matrix is not None and preset is not None:
        raise ValueError("--matrix and --preset exclude each other; both say what the rows are")
    check_out(out)

    from phnet_monai import comparison

    failed: list[str] = []
    if not report_only:
        chosen = comparison.choose_matrix(matrix, preset, given, recipe=recipe, overrides=overrides)
        found = comparison.find_layout(data) if layout == "auto" else layout
        if not chosen.dataset:
            chosen = replace(chosen, dataset=comparison.dataset_name(found, data))
        outcome = comparison.compare(
            chosen,
            data,
            out,
            layout=found,
            work=work,
            jobs=jobs,
            threads=threads,
            device=device,
            progress=not quiet,
            allow_leak=allow_leak,
        )
        failed = [*outcome.errors, *outcome.skipped]
    try:
        report = comparison.write_report(
            out, work=work, part=part, checkpoint=checkpoint, reference=reference, pictures=pictures, device=device
        )
    except (ValueError, OSError) as error:
        if not failed:
            raise
        reason = terminal_text(" ".join(str(error).split()))
        print(f"phnet: no report: {reason}", file=sys.stderr)  # the trainings' errors stand above
        return 3
    print(terminal_lines(report.read_text(encoding="utf-8")))
    print(f"\n{report}")
    return 3 if failed else 0


def _words(entries: list[str] | None) -> list[str] | None:
    """Repeated flags, each with one or several values joined by commas."""
    if entries is None:
        return None
    return [word for entry in entries for word in entry.split(",") if word]


def _numbers(words: list[str] | None) -> list[int] | None:
    if words is None:
        return None
    wrong = [word for word in words if not word.isdigit()]
    if wrong:
        raise ValueError(f"--seeds: expected whole numbers such as 0,1,2; found {wrong[0]!r}")
    return [int(word) for word in words]
