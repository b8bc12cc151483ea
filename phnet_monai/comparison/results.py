"""The finished cells of a comparison, read back from its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from phnet_monai.comparison.matrix import Cell, Matrix, MatrixError, read_comparison
from phnet_monai.data.records import shorten
from phnet_monai.engines.run import config_differences
from phnet_monai.metrics import read_per_image

Run = tuple[int, int | None]
"""What tells the trainings of one row apart: seed, and fold of a cross-validation."""

CHECKPOINTS = ("last", "best")
PARTS = ("test", "validation")


@dataclass(frozen=True)
class Result:
    """One finished training.

    Attributes:
        cell: which one; path: its JSON file; content: what is in it.
    """

    cell: Cell
    path: Path
    content: Mapping[str, Any]

    @property
    def run(self) -> Run:
        return self.cell.seed, self.cell.fold

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        return self.content.get("history") or ()

    def summary(self, part: str, checkpoint: str) -> Mapping[str, Any] | None:
        """Scores of the whole part as `phnet evaluate` summarises them; None where they are not there."""
        return (self.content.get("scores") or {}).get(part, {}).get(checkpoint)

    def table_file(self, part: str, checkpoint: str) -> Path:
        """Where the scores per image lie: `NAME__test.csv` for `last`, `NAME__test_best.csv` for `best`."""
        ending = part if checkpoint == "last" else f"{part}_{checkpoint}"
        return self.path.with_name(f"{self.path.stem}__{ending}.csv")

    def per_image(self, part: str, checkpoint: str) -> dict[str, dict[str, Any]] | None:
        """Scores per image by case; None where the table is not there. Raises ValueError for a case twice."""
        path = self.table_file(part, checkpoint)
        if path not in self._tables:
            self._tables[path] = _read_table(path) if path.is_file() else None
        return self._tables[path]

    @cached_property
    def _tables(self) -> dict[Path, dict[str, dict[str, Any]] | None]:
        return {}


def _read_table(path: Path) -> dict[str, dict[str, Any]]:
    rows = read_per_image(path)
    table = {str(row["case_id"]): row for row in rows}
    if len(table) != len(rows):
        raise ValueError(f"{path}: {len(rows) - len(table)} images stand twice; evaluate the training anew")
    return table


@dataclass(frozen=True)
class Results:
    """What a comparison has brought so far.

    Attributes:
        matrix: what was asked for; finished: in the order of the matrix; missing: names of the unfinished cells.
    """

    matrix: Matrix
    finished: tuple[Result, ...]
    missing: tuple[str, ...]

    @property
    def reference(self) -> str:
        """Name of the row that the others are tested against."""
        return self.matrix.reference_row()

    def scenes(self) -> list[tuple[str, str]]:
        """(profile, labeled) of which anything is finished, in the order of the matrix."""
        found = {(result.cell.profile, result.cell.labeled) for result in self.finished}
        wanted = ((profile, labeled) for profile in self.matrix.profiles for labeled in self.matrix.labeled)
        return [scene for scene in wanted if scene in found]

    def of(self, profile: str, labeled: str) -> dict[str, list[Result]]:
        """Row name -> its finished trainings under one profile and fraction; rows without any are left out."""
        rows: dict[str, list[Result]] = {row.name: [] for row in self.matrix.rows}
        for result in self.finished:
            if (result.cell.profile, result.cell.labeled) == (profile, labeled):
                rows[result.cell.row.name].append(result)
        return {name: found for name, found in rows.items() if found}

    def labels(self) -> dict[str, str]:
        return {row.name: row.label for row in self.matrix.rows}

    def labels_with_runs(self, profile: str, labeled: str) -> dict[str, str]:
        """Labels; a row that is not finished says how far it is: `AugSeg (2 of 3)`."""
        counts = {name: len(found) for name, found in self.of(profile, labeled).items()}
        return {name: self.label_of(name, counts.get(name, self.runs_wanted)) for name in self.labels()}

    def label_of(self, name: str, runs: int) -> str:
        """Label of a row of which so many runs are shown."""
        return self.labels()[name] + (f" ({runs} of {self.runs_wanted})" if runs < self.runs_wanted else "")

    @property
    def runs_wanted(self) -> int:
        """Trainings of one row under one profile and fraction when all are finished."""
        return len(self.matrix.seeds) * (self.matrix.folds or 1)


def read_results(folder: str | Path) -> Results:
    """Read `compare.json` and whatever is finished in `results/`.

    Raises:
        FileNotFoundError: no `compare.json`.
        MatrixError: nothing is finished yet.
        ValueError: a result file that is no JSON, or is of another cell; the message names it.
    """
    folder = Path(folder)
    matrix = read_comparison(folder)
    finished, missing = [], []
    for cell in matrix.cells():
        path = folder / "results" / f"{cell.name}.json"
        if path.is_file():
            finished.append(Result(cell, path, read_cell(path, cell, matrix)))
        else:
            missing.append(cell.name)
    if not finished:
        raise MatrixError(f"{folder / 'results'}: no cell of {folder / 'compare.json'} is finished, nothing to report")
    _check_splits(finished)
    _check_starts(finished)
    _check_settings(finished)
    return Results(matrix, tuple(finished), tuple(missing))


def _check_splits(finished: Sequence[Result]) -> None:
    """Refuse cells of one fraction, seed and fold that were trained and scored on different images."""
    seen: dict[str, Result] = {}
    for result in finished:
        digest = result.content.get("split_sha256")
        first = seen.setdefault(result.cell.split, result) if digest else result
        if digest and first.content["split_sha256"] != digest:
            raise ValueError(
                f"{result.path} and {first.path} are of different images or parts; rows can only be compared on the "
                "same ones. Keep the results of different data in different folders."
            )


def _check_starts(finished: Sequence[Result]) -> None:
    """Refuse cells that name one start and began from different weights: of one that was trained anew, say."""
    seen: dict[tuple[str, str, str], Result] = {}
    for result in finished:
        digest = (result.content.get("starts_sha256") or {}).get("init")
        start = (result.content.get("warm_start") or {}).get("name")
        if digest is None or start is None:
            continue
        first = seen.setdefault((result.cell.profile, result.cell.split, start), result)
        if first.content["starts_sha256"]["init"] != digest:
            raise ValueError(
                f"{result.path} and {first.path} began from different trainings of the start {start}; rows can only be "
                "compared from the same one. Keep them in different folders, or put the first start in place "
                "(docs/comparison.md) and remove the file, and the cell is trained anew."
            )


def _check_settings(finished: Sequence[Result]) -> None:
    """Refuse trainings of one row and profile with different configurations, where a shipped overlay has changed."""
    seen: dict[tuple[str, str], Result] = {}
    for result in (one for one in finished if "configuration" in one.content):
        first = seen.setdefault((result.cell.row.name, result.cell.profile), result)
        before, now = (dict(one.content["configuration"], seed=0) for one in (first, result))
        if found := config_differences(before, now):
            raise ValueError(
                f"{first.path} and {result.path} stand in one row and were trained with different settings "
                f"({shorten(found)}). Remove the files of one of them, and it is trained anew."
            )


def read_cell(path: Path, cell: Cell, matrix: Matrix) -> Mapping[str, Any]:
    """The result file of a finished cell.

    Raises:
        ValueError: no JSON, or of another cell or other settings than the matrix has; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); remove it, and the cell is trained anew") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found a {type(content).__name__}; remove it")
    by_name = {"row": cell.row.name, **{key: getattr(cell, key) for key in ("profile", "labeled", "seed", "fold")}}
    row = {"method": cell.row.method, "recipe": cell.row.recipe, "config": list(cell.row.config)}
    settings = {**row, "overrides": {**matrix.overrides, **cell.row.overrides}}
    for wanted, told in ((by_name, "the file's name"), (settings, "the comparison's rows")):
        for key in (key for key, value in wanted.items() if content.get(key) != value):
            raise ValueError(
                f"{path}: {key} is {content.get(key)!r}, expected {wanted[key]!r} by {told}; use another folder, or "
                "remove the file, and the cell is trained anew"
            )
    return content


def common_runs(*rows: Iterable[Result]) -> list[Run]:
    """Seeds (and folds) that all of these rows have finished, in order."""
    sets = [{result.run for result in row} for row in rows]
    return sorted(set.intersection(*sets), key=lambda run: (run[0], run[1] or 0))
