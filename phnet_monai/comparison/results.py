"""The finished cells of a comparison, read back from its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from phnet_monai.comparison.matrix import Cell, Matrix, MatrixError
from phnet_monai.comparison.run import read_comparison
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
        wanted = self.runs_wanted
        short = {name: f" ({count} of {wanted})" for name, count in counts.items() if count < wanted}
        return {name: label + short.get(name, "") for name, label in self.labels().items()}

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
            finished.append(Result(cell, path, _content(path, cell)))
        else:
            missing.append(cell.name)
    if not finished:
        raise MatrixError(f"{folder / 'results'}: no cell of {folder / 'compare.json'} is finished, nothing to report")
    _check_splits(finished)
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


def _content(path: Path, cell: Cell) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); remove it, and the cell is trained anew") from error
    wanted = {"row": cell.row.name, "profile": cell.profile, "labeled": cell.labeled, "seed": cell.seed}
    wrong = [key for key, value in wanted.items() if not isinstance(content, dict) or content.get(key) != value]
    if wrong:
        found = content.get(wrong[0]) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: {wrong[0]} is {found!r}, expected {wanted[wrong[0]]!r} by the file's name")
    return content


def common_runs(*rows: Iterable[Result]) -> list[Run]:
    """Seeds (and folds) that all of these rows have finished, in order."""
    sets = [{result.run for result in row} for row in rows]
    return sorted(set.intersection(*sets), key=lambda run: (run[0], run[1] or 0))
