"""What a comparison consists of: rows (methods or ablations) x profiles x labeled fractions x seeds (x folds)."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from phnet_monai.data.splits import parse_labeled
from phnet_monai.engines.run import ConfigError, compose, overlay, overlay_files, training_overlays
from phnet_monai.files import sha256_of
from phnet_monai.seeds import check_seed
from phnet_monai.shipped import bundle_folder

TITLE = "Comparison"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LABELS = {
    "augseg": "AugSeg",
    "bcp": "BCP",
    "cps": "CPS",
    "cps_cutmix": "CPS (CutMix)",
    "cutmix": "CutMix",
    "imas": "iMAS",
    "mean_teacher": "Mean Teacher",
    "pdf_unet": "PDF-UNet",
    "pdf_unet_noden": "PDF-UNet (no DEN)",
    "phnet": "PH-Net",
    "phnet_plus": "PH-Net+",
    "phnet_release": "PH-Net (release)",
    "ps_mt": "PS-MT",
    "ra_ugmt": "RA-UGMT (re-created)",
    "sup_only": "SupOnly",
    "sup_only_ema": "SupOnly, EMA",
    "sup_only_ema_bn": "SupOnly, EMA, BN of both",
    "u2pl": "U2PL",
    "ua_mt": "UA-MT",
    "unimatch": "UniMatch",
}


class MatrixError(ValueError):
    """A comparison that cannot be run as it is described."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: unique in the comparison; part of file names.
        label: how the table calls it.
        method: overlay below `bundle/configs/methods`.
        recipe: `harmonised`, or `native` for the source's own optimiser and schedule.
        config: further overlays: names below `bundle/configs` without `.json` (`ablations/table2_I`), or files.
        overrides: single values of the configuration.
        paper: the paper's figures, for the report only.
        config_sha256: digests of the overlays in `config`, in their order, once it was run; empty before.
    """

    name: str
    label: str
    method: str
    recipe: str = "harmonised"
    config: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, Any] = field(default_factory=dict)
    config_sha256: tuple[str, ...] = ()

    def settings(self) -> tuple[Any, ...]:
        """What decides the training; rows of one name must agree in it."""
        return (self.method, self.recipe, tuple(self.config), json.dumps(dict(self.overrides), sort_keys=True))


@dataclass(frozen=True)
class Cell:
    """One training of a comparison: a row with everything that varies."""

    row: Row
    profile: str
    labeled: str
    seed: int
    fold: int | None = None
    folds: int | None = None

    @property
    def split(self) -> str:
        """Name of its datalist: fraction, seed and fold."""
        fold = "" if self.fold is None else f"__fold{self.fold}of{self.folds}"
        return f"{self.labeled.replace('/', '-')}__seed{self.seed}{fold}"

    @property
    def name(self) -> str:
        return f"{self.row.name}__{self.profile}__{self.split}"


@dataclass(frozen=True)
class Matrix:
    """A comparison.

    Attributes:
        rows, profiles, labeled, seeds: what is combined, in the order of the runs (rows outermost).
        folds: number of folds of a cross-validation; None: the one fixed split.
        reference: name of the row that the others are tested against; None: `phnet` where it takes part, otherwise the
            last row.
        overrides: values of the configuration for all cells.
        warm_start: values for the shared labeled-only start on top of its overlay; None: no shared start, every run
            pretrains by its profile's `pretrain_epochs`.
        dataset: name for the report; title: its heading.
    """

    rows: tuple[Row, ...]
    profiles: tuple[str, ...] = ("cpu",)
    labeled: tuple[str, ...] = ("1/8",)
    seeds: tuple[int, ...] = (0, 1)
    folds: int | None = None
    reference: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    warm_start: Mapping[str, Any] | None = field(default_factory=dict)
    dataset: str = ""
    title: str = TITLE

    def cells(self) -> Iterator[Cell]:
        folds: Sequence[int | None] = [None] if self.folds is None else range(1, self.folds + 1)
        for labeled in self.labeled:
            for row in self.rows:
                for profile in self.profiles:
                    for seed in self.seeds:
                        for fold in folds:
                            yield Cell(row, profile, labeled, seed, fold, self.folds)

    def reference_row(self) -> str:
        names = [row.name for row in self.rows]
        return self.reference or ("phnet" if "phnet" in names else names[-1])

    def as_data(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))


def rows_of_methods(methods: Sequence[str], recipe: str = "harmonised") -> tuple[Row, ...]:
    """One row for each shipped method, or for `METHOD:native`."""
    rows = []
    for entry in methods:
        method, _, own = entry.partition(":")
        chosen = own or recipe
        suffix = "" if chosen == "harmonised" else f"_{chosen}"
        label = LABELS.get(method, method) + ("" if chosen == "harmonised" else f" ({chosen})")
        rows.append(Row(method + suffix, label, method, chosen))
    return tuple(rows)


def read_matrix(path: str | Path) -> Matrix:
    """A matrix from a JSON file (docs/comparison.md explains it).

    Raises:
        FileNotFoundError, MatrixError: naming the file and the entry.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such matrix file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise MatrixError(f"{path}: not valid JSON ({error})") from error
    return matrix_from_data(content, str(path))


def read_comparison(out: str | Path) -> Matrix:
    """The matrix of a comparison's folder.

    Raises:
        FileNotFoundError, MatrixError.
    """
    path = Path(out) / "compare.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a folder that `phnet compare` wrote")
    return matrix_from_data(json.loads(path.read_text(encoding="utf-8")), str(path))


def matrix_from_data(content: Any, origin: str) -> Matrix:
    """A matrix from plain data, as `Matrix.as_data` gives it; `origin` is named in errors."""
    if not isinstance(content, dict) or not content.get("rows"):
        raise MatrixError(f"{origin}: expected a JSON object with a list `rows`")
    _only_known(content, Matrix, origin)
    rows = []
    for number, entry in enumerate(content["rows"], 1):
        entry = {"method": entry} if isinstance(entry, str) else entry
        where = f"{origin}: row {number}"
        if not isinstance(entry, dict) or "method" not in entry:
            raise MatrixError(f"{where}: expected a method's name or an object with `method`, found {entry!r}")
        _only_known(entry, Row, where)
        _check_kinds(entry, _ROW_KINDS, {"config": str, "config_sha256": str}, where)
        _check_paper(entry.get("paper", {}), where)
        name = entry.get("name", entry["method"])
        label = entry.get("label", LABELS.get(name, name))
        texts = {key: tuple(entry.get(key, ())) for key in ("config", "config_sha256")}
        rows.append(Row(**{**entry, **texts, "name": name, "label": label}))
    _check_kinds(content, _KINDS, _LISTS, origin, may_be_null=_NULLABLE)
    lists = {key: tuple(content[key]) for key in ("profiles", "labeled", "seeds") if key in content}
    return Matrix(**{**content, **lists, "rows": tuple(rows)})


RUN_IDS = (
    *("seed", "datalist", "output_dir", "init", "second_init", "labeler_init", "resume", "allow_leak"),
    *("bundle_root", "dataset_dir"),
)
"""Ids that the comparison itself gives to each training."""
_TEXTS: dict[str, type] = dict.fromkeys(("name", "label", "method", "recipe"), str)
_ROW_KINDS = {"overrides": dict, "paper": dict, **_TEXTS}
_KINDS = {"overrides": dict, "warm_start": dict, "folds": int, "title": str, "dataset": str, "reference": str}
_LISTS = {"profiles": str, "labeled": str, "seeds": int}
_NULLABLE = ("warm_start", "folds", "reference")
_WORDS = {dict: "an object", int: "a whole number", str: "text"}


def _check_kinds(
    entry: Mapping[str, Any],
    kinds: Mapping[str, type],
    lists: Mapping[str, type],
    where: str,
    *,
    may_be_null: Sequence[str] = (),
) -> None:
    """Refuse values of another kind: `kinds` of single values, `lists` of the entries of lists."""
    for key, kind in kinds.items():
        value = entry.get(key, None if key in may_be_null else kind())
        if not (value is None and key in may_be_null) and (not isinstance(value, kind) or isinstance(value, bool)):
            raise MatrixError(f"{where}: `{key}` is {value!r}, expected {_WORDS[kind]}")
    for key, kind in lists.items():
        values = entry.get(key, [])
        whole = isinstance(values, (list, tuple))
        if not whole or any(not isinstance(value, kind) or isinstance(value, bool) for value in values):
            raise MatrixError(f"{where}: `{key}` is {values!r}, expected a list, each entry {_WORDS[kind]}")


def _check_paper(paper: Mapping[str, Any], where: str) -> None:
    """Refuse other figures than `{"BUSI": {"1/8": {"dice": 73.6, ...}}, "note": "..."}`."""
    for name, by_fraction in paper.items():
        if name == "note":
            fits = isinstance(by_fraction, str)
        else:
            of_fractions = by_fraction.values() if isinstance(by_fraction, dict) else [None]
            fits = all(isinstance(of, dict) and all(map(_is_number, of.values())) for of in of_fractions)
        if not fits:
            raise MatrixError(
                f"{where}: `paper` has {by_fraction!r} for {name!r}, expected a text for `note`, else figures by "
                'fraction, as {"1/8": {"dice": 73.6}}'
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _only_known(entry: Mapping[str, Any], kind: type, where: str) -> None:
    known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    for key in entry:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise MatrixError(f"{where}: unknown entry {key!r}; {hint}")


def choose_matrix(
    path: str | Path | None,
    preset: str | None,
    given: Mapping[str, Any],
    *,
    recipe: str = "harmonised",
    overrides: Mapping[str, Any] | None = None,
) -> Matrix:
    """The matrix that a command line asks for.

    Args:
        path: matrix file; preset: a shipped one (`bundle/configs/compare`); neither: one made of `given`.
        given: `rows` (names of methods; with a file or preset: which of its rows), `labeled`, `seeds`, `profiles`,
            `folds`, `reference`; None entries change nothing.
        recipe: of rows that are made of methods' names.
        overrides: values of the configuration for all cells, over those of a file.

    Raises:
        FileNotFoundError, MatrixError.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    changes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in asked.items()}
    names = changes.pop("rows", ())
    if path is None and preset is None:
        if not names:
            raise MatrixError("nothing to compare: give methods, a matrix file or a preset")
        rows = rows_of_methods(names, recipe)
        matrix = Matrix(rows, overrides=dict(overrides or {}))
        return replace(matrix, **changes)
    if recipe != "harmonised":
        raise MatrixError(f"a matrix file or preset says itself which recipe each row has; leave {recipe!r} out")
    matrix = read_matrix(path if path is not None else overlay("compare", str(preset)))
    if names:
        known = {row.name: row for row in matrix.rows}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise MatrixError(f"there is no row {unknown[0]!r} in the matrix; its rows are {', '.join(known)}")
        rows = tuple(known[name] for name in names)
        reference = matrix.reference if matrix.reference in names else None
        matrix = replace(matrix, rows=rows, reference=reference)
    return replace(matrix, **changes, overrides={**matrix.overrides, **(overrides or {})})


def check_matrix(matrix: Matrix) -> None:
    """Compose every row's configuration, so that a misspelt name is found before hours of training.

    Raises:
        MatrixError, ConfigError.
    """
    names = [row.name for row in matrix.rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise MatrixError(f"two rows are called {twice[0]!r}; give one of them another `name`")
    for row in matrix.rows:
        if not NAME.fullmatch(row.name) or "__" in row.name:
            raise MatrixError(f"row {row.name!r}: a name consists of letters, digits, '-', '.' and single '_'")
    for key in ("rows", "profiles", "labeled", "seeds"):
        values = getattr(matrix, key)
        if not values or len(set(values if key != "rows" else names)) != len(values):
            raise MatrixError(f"`{key}` is {values!r}, expected at least one entry and none twice")
    for seed in matrix.seeds:
        try:
            check_seed(seed)
        except ValueError as error:
            raise MatrixError(f"`seeds`: {error}") from error
    if matrix.folds is not None and matrix.folds < 2:
        raise MatrixError(f"`folds` is {matrix.folds}, expected at least 2, or none")
    for labeled in matrix.labeled:
        try:
            parse_labeled(labeled)
        except ValueError as error:
            raise MatrixError(f"`labeled`: {error}") from error
    given = {"`overrides`": matrix.overrides, **{f"row {row.name!r}": row.overrides for row in matrix.rows}}
    for where, values in given.items():
        for key in values:
            if key in RUN_IDS:
                raise MatrixError(f"{where}: {key!r} is what the comparison gives to each training; leave it out")
    for profile in matrix.profiles:
        for row in matrix.rows:
            row_config(matrix, row, profile)


def check_reference(matrix: Matrix) -> None:
    """Raise MatrixError where the reference is none of the rows, those of earlier calls among them."""
    names = [row.name for row in matrix.rows]
    if matrix.reference is not None and matrix.reference not in names:
        raise MatrixError(f"reference is {matrix.reference!r}, expected one of the rows {', '.join(names)}")


def with_digests(matrix: Matrix) -> Matrix:
    """The matrix with the digests of its rows' overlays as they are now."""
    rows = (
        replace(row, config_sha256=tuple(sha256_of(path) for path in overlay_files(row.config))) for row in matrix.rows
    )
    return replace(matrix, rows=tuple(rows))


def row_config(matrix: Matrix, row: Row, profile: str) -> dict[str, Any]:
    """The composed configuration of a row, not instantiated."""
    base = bundle_folder() / "configs" / "train.json"
    try:
        overlays = training_overlays(profile, row.method, recipe=row.recipe, config=row.config)
        return compose(base, overlays, {**matrix.overrides, **row.overrides}).get()
    except (ConfigError, FileNotFoundError) as error:
        raise MatrixError(f"row {row.name!r}: {error}") from error


def merge(old: Matrix, new: Matrix, origin: str) -> Matrix:
    """`new` with the rows, fractions, seeds and profiles that an earlier comparison in the same folder had.

    The earlier title and reference stay where `new` gives none.

    Raises:
        MatrixError: a row of the same name means something else, or folds or common values differ.
    """
    for key in ("folds", "overrides", "warm_start", "dataset"):
        if getattr(old, key) != getattr(new, key):
            raise MatrixError(
                f"{origin}: was begun with {key} = {getattr(old, key)!r}, now it is {getattr(new, key)!r}; "
                "use another folder"
            )
    rows = {row.name: row for row in old.rows}
    for row in new.rows:
        before = rows.get(row.name, row)
        edited = before.config_sha256 and row.config_sha256 and before.config_sha256 != row.config_sha256
        if before.settings() != row.settings() or edited:
            raise MatrixError(
                f"{origin}: row {row.name!r} was begun with other settings; give the new one another `name`, or use "
                "another folder"
            )
        rows[row.name] = row
    if len(rows) == len(new.rows):  # a preset that was narrowed before gets its own order
        rows = {row.name: row for row in new.rows}
    return replace(
        new,
        title=old.title if new.title == TITLE else new.title,
        reference=new.reference or old.reference,
        rows=tuple(rows.values()),
        profiles=tuple(dict.fromkeys([*old.profiles, *new.profiles])),
        labeled=tuple(dict.fromkeys([*old.labeled, *new.labeled])),
        seeds=tuple(dict.fromkeys([*old.seeds, *new.seeds])),
    )
