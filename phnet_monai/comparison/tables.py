"""Tables of a comparison: scores by row and labeled fraction, Dice by lesion size; as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from phnet_monai.comparison.results import CHECKPOINTS, PARTS, Result, Results
from phnet_monai.files import atomic_writer


class Figure(NamedTuple):
    """One score of a summary: its key, how tables call it, the factor to the unit shown, decimals, what is better."""

    key: str
    heading: str
    factor: float
    digits: int
    higher_is_better: bool


FIGURES = (
    Figure("pooled_dice", "pooled Dice", 100, 1, True),
    Figure("pooled_iou", "pooled IoU", 100, 1, True),
    Figure("dice_mean", "Dice per image", 100, 1, True),
    Figure("iou_mean", "IoU per image", 100, 1, True),
    Figure("hd95_mean", "HD95", 1, 0, False),
    Figure("assd_mean", "ASSD", 1, 0, False),
    Figure("missed_rate", "missed, %", 100, 1, False),
    Figure("lesion_sensitivity", "lesions found, %", 100, 1, True),
    Figure("false_positives_per_image", "false lesions per image", 1, 2, False),
    Figure("false_positive_rate_without_lesion", "false alarms without lesion, %", 100, 1, False),
    Figure("ece", "ECE", 1, 3, False),
)
POOLED_DICE = FIGURES[0]


class Spread(NamedTuple):
    """Mean and sample standard deviation over the runs of a row; `std` is NaN for one run, both are for none."""

    mean: float
    std: float
    runs: int


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and standard deviation (n - 1) of what is not missing."""
    known = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=np.float64)
    std = float(known.std(ddof=1)) if known.size > 1 else math.nan
    return Spread(float(known.mean()) if known.size else math.nan, std, int(known.size))


def score(results: Sequence[Result], figure: Figure, part: str, checkpoint: str) -> Spread:
    """One figure of a row over its finished runs, in the unit of the tables."""
    summaries = [result.summary(part, checkpoint) or {} for result in results]
    values = [summary.get(figure.key) for summary in summaries]
    return spread(None if value is None else figure.factor * value for value in values)


def score_records(results: Results) -> list[dict[str, Any]]:
    """Everything that `table.csv` holds: one record per profile, fraction, row, part and checkpoint."""
    records = []
    for profile, labeled in results.scenes():
        for name, finished in results.of(profile, labeled).items():
            for part in PARTS:
                for checkpoint in CHECKPOINTS:
                    if any(result.summary(part, checkpoint) for result in finished):
                        records.append(_record(results, profile, labeled, name, finished, part, checkpoint))
    return records


def _record(
    results: Results, profile: str, labeled: str, name: str, finished: list[Result], part: str, checkpoint: str
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "profile": profile,
        "labeled": labeled,
        "row": name,
        "label": results.labels()[name],
        "part": part,
        "checkpoint": checkpoint,
        "runs": len(finished),
        "runs_wanted": results.runs_wanted,
    }
    for figure in FIGURES:
        found = score(finished, figure, part, checkpoint)
        record |= {figure.key: found.mean, f"{figure.key}_std": found.std}
    for dataset, printed in paper_figures(finished[0].cell.row.paper, labeled).items():
        record |= {f"paper_{dataset}_{key}": value for key, value in printed.items()}
    return record


def paper_figures(paper: Mapping[str, Any], labeled: str) -> dict[str, Mapping[str, float]]:
    """Data set -> what the paper prints for a row at one fraction (dice, std, p, iou; in percent as printed)."""
    return {name: entry[labeled] for name, entry in paper.items() if isinstance(entry, Mapping) and labeled in entry}


def overview(
    results: Results, profile: str, part: str, checkpoint: str, paired: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Rows x fractions as the paper prints them: pooled Dice, with the paper's own figures beside, by data set.

    Args:
        paired: records of `statistics.paired_records`: where the paper prints a p, ours stands beside our figure.
    """
    fractions = [labeled for p, labeled in results.scenes() if p == profile]
    rows = {row.name: row for row in results.matrix.rows}
    shown = {labeled: results.of(profile, labeled) for labeled in fractions}
    names = [name for name in rows if any(name in found for found in shown.values())]
    datasets = {
        (name, key): None
        for row in rows.values()
        for labeled in fractions
        for name, printed in paper_figures(row.paper, labeled).items()
        for key in ("dice", "iou")
        if key in printed
    }
    ours = (POOLED_DICE, FIGURES[1]) if any(key == "iou" for _, key in datasets) else (POOLED_DICE,)
    tested = {(r["labeled"], r["other"]): f" (p {p_text(r['p_holm'])})" for r in paired if r["profile"] == profile}
    with_p = bool(tested) and any(
        "p" in one for row in rows.values() for lab in fractions for one in paper_figures(row.paper, lab).values()
    )
    header, columns = ["method"], []
    for figure in ours:
        for labeled in fractions:
            p_too = with_p and figure is POOLED_DICE
            header.append(f"{labeled}, {figure.heading}" + (" (p: Dice per image, Holm)" if p_too else ""))
            found = {name: score(shown[labeled].get(name, []), figure, part, checkpoint) for name in names}
            texts = _with_runs(marked(found, figure), found, results.runs_wanted)
            columns.append({n: text + tested.get((labeled, n), "") * p_too for n, text in texts.items()})
    for dataset, key in sorted(datasets, key=lambda pair: pair[0] not in results.matrix.dataset):
        for labeled in fractions:
            header.append(f"{labeled}, *paper, {dataset}: {'Dice' if key == 'dice' else 'IoU'}*")
            columns.append({name: _printed(rows[name].paper, labeled, dataset, key) for name in names})
    labels = results.labels()
    return markdown(header, [[labels[name], *(column[name] for column in columns)] for name in names])


def _with_runs(texts: dict[str, str], found: Mapping[str, Spread], wanted: int) -> dict[str, str]:
    """A row with fewer runs than the others says so."""
    short = {name: f" ({entry.runs} of {wanted})" for name, entry in found.items() if 0 < entry.runs < wanted}
    return {name: text + short.get(name, "") for name, text in texts.items()}


def _printed(paper: Mapping[str, Any], labeled: str, dataset: str, key: str) -> str:
    figures = paper_figures(paper, labeled).get(dataset, {})
    if key not in figures:
        return ""
    text = f"{figures[key]:.2f}"
    if key == "dice" and "std" in figures:
        text += f" ± {figures['std']:.2f}"
    if key == "dice" and "p" in figures:
        text += f" (p {figures['p']:.3f})"
    return text


def scores(results: Results, profile: str, labeled: str, part: str, checkpoint: str) -> str:
    """All figures of one profile and fraction, a line for each row; figures that no row has are left out."""
    rows = results.of(profile, labeled)
    other = "validation" if part == "test" else "test"
    columns: list[tuple[str, dict[str, str]]] = []
    for figure in FIGURES:
        found = {name: score(finished, figure, part, checkpoint) for name, finished in rows.items()}
        if any(entry.runs for entry in found.values()):
            columns.append((figure.heading + _unit(figure, rows, part, checkpoint), marked(found, figure)))
    found = {name: score(finished, POOLED_DICE, other, checkpoint) for name, finished in rows.items()}
    if any(entry.runs for entry in found.values()):
        columns.append((f"*{other}: pooled Dice*", marked(found, POOLED_DICE)))
    labels, wanted = results.labels(), results.runs_wanted
    lines = []
    for name, finished in rows.items():
        count = str(wanted) if len(finished) == wanted else f"{len(finished)} of {wanted}"
        lines.append([labels[name], count, *(cells[name] for _, cells in columns)])
    return markdown(["method", "runs", *(heading for heading, _ in columns)], lines)


def _unit(figure: Figure, rows: Mapping[str, Sequence[Result]], part: str, checkpoint: str) -> str:
    if figure.key not in ("hd95_mean", "assd_mean"):
        return ""
    summaries = [result.summary(part, checkpoint) or {} for found in rows.values() for result in found]
    units = {str(summary["distance_unit"]) for summary in summaries if summary.get("distance_unit")}
    return f", {' or '.join(sorted(units))}" if units else ""


def marked(found: Mapping[str, Spread], figure: Figure) -> dict[str, str]:
    """Texts such as `63.8 ± 1.2`; the best mean is bold, where rows differ."""
    texts = {name: text(entry, figure.digits) for name, entry in found.items()}
    means = {name: round(entry.mean, figure.digits) for name, entry in found.items() if entry.runs}
    if len(set(means.values())) > 1:
        best = (max if figure.higher_is_better else min)(means.values())
        texts |= {name: f"**{texts[name]}**" for name, mean in means.items() if mean == best}
    return texts


def text(entry: Spread, digits: int = 1) -> str:
    """`63.8 ± 1.2`; without the deviation for a single run; a dash for none."""
    if not entry.runs:
        return "-"
    mean = f"{entry.mean:.{digits}f}"
    return mean if math.isnan(entry.std) else f"{mean} ± {entry.std:.{digits}f}"


def p_text(p: float) -> str:
    """`0.012`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def size_text(low: float, high: float) -> str:
    """`1.2 to 3.4 %` of a pair of area fractions."""
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def size_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Dice per image by quarter of the lesions' area, a line for each row; `records` as `statistics.size_records`."""
    quarters: dict[int, str] = {}
    rows: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in records:
        area = size_text(record["area_low"], record["area_high"])
        quarters[record["quarter"]] = f"{area} (n = {record['images']})"
        rows.setdefault(record["row"], {})[record["quarter"]] = record
    header = ["method, Dice per image", *(quarters[number] for number in sorted(quarters))]
    columns = {
        number: marked(
            {
                label: Spread(100 * found[number]["dice"], math.nan, 1)
                for label, found in rows.items()
                if number in found
            },
            POOLED_DICE,
        )
        for number in quarters
    }
    labels = {record["row"]: record["label"] for record in records}
    return markdown(header, [[labels[name], *(columns[n].get(name, "-") for n in sorted(quarters))] for name in rows])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _plain(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


def write_csv(path: Path, records: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write records as CSV; `columns` come first, then others as they appear; NaN and None are empty cells."""
    names = list(dict.fromkeys([*columns, *(key for record in records for key in record)]))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in record.items()} for record in records)
    with atomic_writer(path) as file:
        file.write(stream.getvalue().encode("utf-8"))
