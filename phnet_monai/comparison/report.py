"""The report of a comparison: `table.md` with tables, statistics and figures, the same as CSV, and the plots.

It can be written at any time: it shows what is finished and says what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phnet_monai.comparison import figures, plots, statistics, tables
from phnet_monai.comparison.results import CHECKPOINTS, PARTS, Result, Results, read_results
from phnet_monai.extras import MissingExtraError
from phnet_monai.files import atomic_writer, write_json

REPORT = "table.md"
GROUPS = "groups.json"
FEW = 20
"""Groups of test images below which a report warns: bootstrap intervals are too narrow, rank tests have no power."""

PARITY = (
    '*Figures in columns headed "paper" are those that the paper prints for the data set named: pooled Dice (and IoU) '
    "in percent, of its own random 8:1:1 split, which does not keep near-duplicates apart, at 500 x 500 pixels with a "
    "ResNet-50 (or U-Net) after 200 epochs, and its own Wilcoxon p against its full model. Ours come from other "
    "images, splits, networks and schedules. They stand here for orientation, not as parity.*"
)
COLUMNS = (
    "Scores in percent at the images' original size, mean ± standard deviation over runs; bold: best of the column. "
    "Pooled figures count the pixels of all images with a lesion together (as the paper's tables do), ECE those of all "
    'images; "lesions found" is a share of all lesions, the others are means over images. HD95 and ASSD of an image in '
    'which nothing was found count the image\'s diagonal. "Missed": images whose lesion the prediction does not touch; '
    '"lesions found" and "false lesions": connected components.'
)


@dataclass
class Report:
    """What the parts of a report share.

    Attributes:
        results, folder (of the comparison), out, work, part, checkpoint, groups, n_resamples, seed, device: see
            `write_report`; draw, pictures: whether plots and pictures of images are made; lines: of `table.md`.
    """

    results: Results
    out: Path
    work: Path
    part: str
    checkpoint: str
    groups: Mapping[str, str]
    n_resamples: int
    seed: int
    device: str
    draw: bool
    pictures: bool
    lines: list[str] = field(default_factory=list)
    paired: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[dict[str, Any]] = field(default_factory=list)

    def add(self, *lines: str) -> None:
        """Lines of `table.md`, with an empty one behind."""
        self.lines += [*lines, ""]

    def plot(self, name: str, scene: tuple[str, str] | None, about: str) -> Path:
        """Path of a plot, linked from `table.md`; the scene is in its name where the comparison has several."""
        several = scene is not None and len(self.results.scenes()) > 1
        ending = f"_{scene[0]}_{scene[1].replace('/', '-')}" if several and scene else ""
        self.add(f"![{about}]({name}{ending}.png)")
        return self.out / f"{name}{ending}.png"

    def title(self, text: str, scene: tuple[str, str]) -> str:
        """Heading of a plot: what it shows, of which data and fraction."""
        dataset = f"{self.results.matrix.dataset}, " if self.results.matrix.dataset else ""
        return f"{text}: {dataset}{scene[1]} labeled, profile {scene[0]}"


def write_report(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    work: str | Path | None = None,
    part: str = "test",
    checkpoint: str = "last",
    reference: str | None = None,
    draw: bool = True,
    pictures: bool = True,
    device: str = "auto",
    n_resamples: int = statistics.RESAMPLES,
    seed: int = 0,
) -> Path:
    """Write the report of a comparison, finished or not.

    Args:
        folder: of the comparison, with `compare.json` and `results/`.
        out: folder for the report; `folder`/report where not given. Files of an earlier report are replaced.
        work: of datalists and checkpoints (`folder`/work where not given), for pictures of predictions and for the
            groups of the images. Without it the pictures are left out with a note; groups are then read from
            `folder`/groups.json, which is written whenever a datalist is there.
        part: `test` or `validation`.
        checkpoint: `last` or `best` (on the validation images).
        reference: row that the others are tested against; the comparison's own where not given.
        pictures: also show test images with masks and probabilities; not for a report that goes where the images may
            not.
        draw: make the plots; needs the extra `plot` (matplotlib).
        device: for the pictures' predictions.
        n_resamples, seed: of the bootstrap intervals.

    Returns:
        Path of `table.md`. Beside it: table.csv, statistics.csv, dice_by_size.csv and the plots.

    Raises:
        FileNotFoundError: no comparison in `folder`.
        ValueError: unknown part, checkpoint or reference, nothing finished, or result files that contradict each other.
        MissingExtraError: matplotlib is missing; the tables are written all the same.
    """
    if part not in PARTS or checkpoint not in CHECKPOINTS:
        raise ValueError(
            f"part is {part!r} and checkpoint {checkpoint!r}, expected one of {', '.join(PARTS)} and one of "
            f"{', '.join(CHECKPOINTS)}"
        )
    folder = Path(folder)
    work = folder / "work" if work is None else Path(work)
    results = _with_reference(read_results(folder), reference)
    report = Report(
        results=results,
        out=folder / "report" if out is None else Path(out),
        work=work,
        part=part,
        checkpoint=checkpoint,
        groups=_groups(folder, work, results),
        n_resamples=n_resamples,
        seed=seed,
        device=device,
        draw=draw,
        pictures=pictures,
    )
    missing_extra = _check_extra(report)
    _write(report)
    if missing_extra is not None:
        raise missing_extra
    return report.out / REPORT


def _with_reference(results: Results, reference: str | None) -> Results:
    if reference is None:
        return results
    if reference not in results.labels():
        raise ValueError(f"reference is {reference!r}, expected one of the rows {', '.join(results.labels())}")
    return replace(results, matrix=replace(results.matrix, reference=reference))


def _check_extra(report: Report) -> MissingExtraError | None:
    """Without matplotlib the tables are written, then the error is raised."""
    if report.draw:
        try:
            plots.pyplot()
        except MissingExtraError as error:
            report.draw = False
            return MissingExtraError(f"{report.out / REPORT} was written without plots: {error}")
    return None


def _write(report: Report) -> None:
    report.paired = [record for scene in report.results.scenes() for record in _paired_records(report, scene)]
    _head(report)
    _overviews(report)
    for scene in report.results.scenes():
        _scene(report, scene)
    _missing(report)
    _origin(report)
    tables.write_csv(report.out / "table.csv", tables.score_records(report.results))
    tables.write_csv(report.out / "statistics.csv", report.paired, ["profile", "labeled", "reference", "other"])
    tables.write_csv(report.out / "dice_by_size.csv", report.sizes, ["profile", "labeled", "row", "quarter"])
    with atomic_writer(report.out / REPORT) as stream:
        stream.write(("\n".join(report.lines).rstrip() + "\n").encode("utf-8"))


def _groups(folder: Path, work: Path, results: Results) -> Mapping[str, str]:
    """Group of every case of the data set, from any of the comparison's datalists, or as it was kept of them."""
    file = folder / GROUPS
    for cell in results.matrix.cells():
        datalist = work / "data" / cell.split / "datalist.json"
        if datalist.is_file():
            parts = json.loads(datalist.read_text(encoding="utf-8"))
            entries = (entry for part in ("labeled", "unlabeled", *PARTS) for entry in parts.get(part, ()))
            found = {entry["case_id"]: entry["group_id"] for entry in entries}
            if _scored_cases(results) <= found.keys():  # else it is of another data set
                write_json(file, dict(sorted(found.items())))
                return found
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _scored_cases(results: Results) -> set[str]:
    scored = (result.per_image(part, "last") or {} for result in results.finished for part in PARTS)
    return {case for cases in scored for case in cases}


def _head(report: Report) -> None:
    results = report.results
    matrix = results.matrix
    total = len(results.finished) + len(results.missing)
    split = f"{matrix.folds} folds" if matrix.folds else "one split"
    report.add(f"# {matrix.title}")
    report.add(
        f"{matrix.dataset or 'Data set not named'}; {split}; seeds {', '.join(map(str, matrix.seeds))}; "
        f"{report.part} part; checkpoint `{report.checkpoint}`. "
        f"**{len(results.finished)} of {total} trainings are finished**"
        + (f"; [missing](#missing): {len(results.missing)}." if results.missing else ".")
    )
    report.add(COLUMNS)


def _overviews(report: Report) -> None:
    """Fractions side by side as in the paper, where there are several or the paper has figures."""
    rows = report.results.matrix.rows
    notes = [str(row.paper["note"]) for row in rows if row.paper.get("note")]
    for profile in dict.fromkeys(profile for profile, _ in report.results.scenes()):
        fractions = [labeled for p, labeled in report.results.scenes() if p == profile]
        printed = any(tables.paper_figures(row.paper, labeled) for row in rows for labeled in fractions)
        if len(fractions) < 2 and not printed:
            continue
        report.add(f"## Overview, profile `{profile}`")
        report.add(tables.overview(report.results, profile, report.part, report.checkpoint, report.paired))
        if printed:
            report.add(PARITY)
    for note in notes:
        report.add(f"*{note}*")


def _scene(report: Report, scene: tuple[str, str]) -> None:
    """Everything of one profile and fraction."""
    results = report.results
    profile, labeled = scene
    options: dict[str, Any] = {"part": report.part, "checkpoint": report.checkpoint}
    report.add(f"## {labeled} labeled, profile `{profile}`")
    report.add(_counts(results, scene))
    report.add(tables.scores(results, profile, labeled, report.part, report.checkpoint))
    if report.draw and any(result.summary(report.part, report.checkpoint) for result in results.finished):
        path = report.plot("methods", scene, "pooled Dice of all rows")
        plots.plot_methods(results, profile, labeled, path, title=report.title("Pooled Dice", scene), **options)
    sizes = statistics.size_records(results, profile, labeled, **options, **_sampling(report))
    report.sizes += sizes
    _paired(report, scene, [r for r in report.paired if (r["profile"], r["labeled"]) == scene])
    _sizes(report, scene, sizes)
    if report.draw:
        _curves(report, scene)
    if report.draw and report.pictures:
        _pictures(report, scene)


def _sampling(report: Report) -> dict[str, Any]:
    return {"groups": report.groups, "n_resamples": report.n_resamples, "seed": report.seed}


def _paired_records(report: Report, scene: tuple[str, str]) -> list[dict[str, Any]]:
    options = {"part": report.part, "checkpoint": report.checkpoint, **_sampling(report)}
    return statistics.paired_records(report.results, *scene, **options)


def _counts(results: Results, scene: tuple[str, str]) -> str:
    found = [result.content.get("counts") for finished in results.of(*scene).values() for result in finished]
    texts = [", ".join(f"{number} {part}" for part, number in count.items()) for count in found if count]
    unique = list(dict.fromkeys(texts))
    return f"Images: {'; or '.join(unique)}." if unique else "Numbers of images are not recorded."


def _paired(report: Report, scene: tuple[str, str], records: Sequence[Mapping[str, Any]]) -> None:
    labels = report.results.labels()
    reference = labels[report.results.reference]
    report.add(f"### {reference} against the others, {scene[1]} labeled")
    if not records:
        report.add(f"Not yet: {reference} and another row need scores of the same {report.part} images.")
        return
    first = records[0]
    units = f"{first['images']} images with a lesion"
    if first["groups"] < first["images"]:
        units += f" in {first['groups']} groups (near-duplicates, patients)"
    report.add(
        f"Dice per image is averaged over the runs that both have finished; {units}. Two-sided Wilcoxon signed-rank "
        f"test, corrected by Holm over the {len(records)} comparisons of this fraction; positive: {reference} is "
        'higher. "p" takes the images as independent, which near-duplicates are not; "group means" is the same test on '
        "the mean difference of each group: where the two disagree, trust that one. Intervals: percentile bootstrap "
        f"that draws groups as a whole, {report.n_resamples} resamples. They tell how sure the difference is on such "
        "images, not how it would vary with other splits or draws of the labeled images."
    )
    if first["groups"] < FEW:
        report.add(
            f"**These are few images to test on** (fewer than {FEW}, groups counted once): even a difference on all of "
            "them may be chance, and the intervals are too narrow."
        )
    if report.results.matrix.folds:
        report.add("The pooled differences put the folds of a seed together, the table above averages over folds.")
    report.add(statistics.paired_table(records, reference))
    if report.draw:
        path = report.plot("differences", scene, f"differences to {reference}")
        plots.plot_differences(records, path, reference=reference, title=report.title("Differences", scene))


def _sizes(report: Report, scene: tuple[str, str], records: Sequence[Mapping[str, Any]]) -> None:
    if not records:
        return
    report.add(f"### Dice by lesion size, {scene[1]} labeled")
    report.add("Quarters of the images by lesion area, in percent of the image; Dice per image averaged over runs.")
    report.add(tables.size_table(records))
    if report.draw:
        path = report.plot("dice_by_size", scene, "Dice by lesion size")
        title = report.title("Dice by lesion size", scene)
        plots.plot_sizes(records, path, reference=report.results.reference, title=title)


def _curves(report: Report, scene: tuple[str, str]) -> None:
    kinds = (
        ("validation", "learning_curves", "Learning curves", "validation, pooled Dice, %"),
        ("unlabeled", "pseudo_labels", "Pseudo-label accuracy", "unlabeled, pooled Dice, %"),
    )
    texts = {
        "validation": "Mean over runs and their range. Rows of a seed that have the same start (below) begin from it.",
        "unlabeled": "The evaluated network's labels of the unlabeled training images against their hidden masks, "
        "which training never reads (as in the paper's Fig. 6).",
    }
    for part, name, heading, ylabel in kinds:
        found = plots.curves(report.results, *scene, part)
        if found:
            report.add(f"### {heading}, {scene[1]} labeled")
            report.add(texts[part])
            plots.plot_curves(
                found,
                report.plot(name, scene, heading),
                labels={name: report.results.label_of(name, curve.runs) for name, curve in found.items()},
                reference=report.results.reference,
                title=report.title(heading, scene),
                ylabel=ylabel,
            )


def _pictures(report: Report, scene: tuple[str, str]) -> None:
    """Figs. 5 and 7, from the checkpoints of the first run that has any."""
    results = report.results
    by_run: dict[Any, dict[str, Result]] = {}
    for name, finished in results.of(*scene).items():
        for result in finished:
            by_run.setdefault(result.run, {})[name] = result
    report.add(f"### Pictures, {scene[1]} labeled")
    for run in sorted(by_run, key=lambda run: (run[0], run[1] or 0)):
        chosen = by_run[run]
        datalist = report.work / "data" / next(iter(chosen.values())).cell.split / "datalist.json"
        files = {name: report.work / "cells" / r.cell.name / f"{report.checkpoint}.pt" for name, r in chosen.items()}
        if datalist.is_file() and any(file.is_file() for file in files.values()):
            try:
                write_pictures(report, scene, datalist, files, _run_text(run))
            except (ValueError, OSError) as error:  # images that were moved must not cost the tables
                report.add(f"Left out: {' '.join(str(error).split())}")
            return
    report.add(f"Left out: no checkpoints and datalist in the work folder `{report.work.name}`.")


def _run_text(run: tuple[int, int | None]) -> str:
    return f"seed {run[0]}" + ("" if run[1] is None else f", fold {run[1]}")


def write_pictures(
    report: Report, scene: tuple[str, str], datalist: Path, checkpoints: Mapping[str, Path], run: str
) -> None:
    """The pictures of one run. Rows without a usable checkpoint are named and left out."""
    pictures = figures.choose_pictures(datalist, report.part)
    found, failed = figures.predict(pictures, checkpoints, device=report.device)
    labels = report.results.labels()
    if failed:
        report.add("Left out: " + "; ".join(f"{labels[name]} ({reason})" for name, reason in failed.items()) + ".")
    if not (found and pictures):
        return
    report.add(
        f"Of {run}. The images are the 10th, 50th and 90th percentile of lesion area of each class, chosen before any "
        "method was looked at. Masks as in the paper's Fig. 5, probabilities as in its Fig. 7."
    )
    path = report.plot("masks", scene, "truth and prediction")
    figures.plot_masks(pictures, found, path, labels=labels, title=report.title(f"Masks, {run}", scene))
    path = report.plot("probabilities", scene, "probability of lesion")
    title = report.title(f"Probability of lesion (black: truth), {run}", scene)
    figures.plot_probabilities(pictures, found, path, labels=labels, title=title)


def _missing(report: Report) -> None:
    report.add("## Missing")
    if report.results.missing:
        report.add(
            "Not finished; `phnet compare` with these rows, fractions and seeds (or all of them) goes on with them:"
        )
        report.add(*(f"- `{name}`" for name in report.results.missing))
    else:
        report.add("Nothing: every training of the comparison is finished.")


def _origin(report: Report) -> None:
    """What is needed to repeat the comparison, and what its cells do not agree in."""
    matrix = report.results.matrix
    labels = {row.name: row for row in matrix.rows}
    rows = [
        [row.label, f"`{row.method}`", row.recipe, ", ".join(f"`{c}`" for c in row.config), _values(row.overrides)]
        for row in labels.values()
    ]
    report.add("## How it was made")
    report.add("`compare.json` beside this folder describes the comparison, each file in `results/` its training.")
    report.add(tables.markdown(["row", "method", "recipe", "overlays", "values"], rows))
    facts = {
        "common values": _values(matrix.overrides),
        **_starts(report.results),
        "values of the starts": _values(matrix.warm_start or {}),
        **{key: _distinct(report.results, key) for key in ("steps", "version", "commit", "date", "machine")},
    }
    report.add(*(f"- {name}: {value}" for name, value in facts.items() if value))


def _starts(results: Results) -> dict[str, str]:
    """`start NAME, STEPS` -> the rows that began from it, for all labeled-only trainings that runs began from."""
    rows: dict[str, dict[str, None]] = {}
    several = len({result.cell.profile for result in results.finished}) > 1
    for result in results.finished:
        start = _start(result) + (f", profile `{result.cell.profile}`" if several else "")
        rows.setdefault(start, {})[result.cell.row.label] = None
    return {start: "all rows" if len(rows) == 1 else "; ".join(labels) for start, labels in rows.items()}


def _start(result: Result) -> str:
    """Its name without fraction and seed, which are those of the run."""
    start = result.content.get("warm_start")
    if start is None:
        return "no start but the profile's labeled-only epochs"
    cell = result.cell
    name = "__".join(part for part in start["name"].split("__") if part not in (cell.profile, *cell.split.split("__")))
    return f"start `{name}`, {start['steps']} steps"


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}={json.dumps(value)}`" for key, value in values.items())


def _distinct(results: Results, key: str) -> str:
    """The values of a key of the result files, each with the number of trainings that have it; null is unknown."""
    counts: dict[str, int] = {}
    for result in results.finished:
        value = result.content.get(key)
        text = ", ".join(f"{k} {v}" for k, v in value.items() if v) if isinstance(value, dict) else str(value)
        text = "unknown" if value is None else text
        counts[text] = counts.get(text, 0) + 1
    return next(iter(counts)) if len(counts) == 1 else "; ".join(f"{text} ({n})" for text, n in counts.items())
