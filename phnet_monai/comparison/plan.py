"""Which pieces of work a comparison needs: datalists and labeled-only starts, each once, and the unfinished cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phnet_monai.comparison.matrix import Cell, Matrix, MatrixError, row_config
from phnet_monai.comparison.results import read_cell
from phnet_monai.data.records import shorten
from phnet_monai.engines.run import compose, config_differences, native_methods, overlay_files, training_overlays
from phnet_monai.files import digest
from phnet_monai.shipped import bundle_folder
from phnet_monai.tasks import Task

CELLS = "phnet_monai.comparison.cells"
DATALIST = "phnet_monai.comparison.layouts:make_datalist"
SHARED_START = "warm_start"
OTHER_SEED = 1000  # a second student starts from the labeled-only training of this many seeds further
STEPS_OF_UNKNOWN_EPOCH = 100  # for the progress bar only


@dataclass
class Plan:
    """Tasks of a comparison.

    Attributes:
        source, layout: the data set; out: folder of the results; work: of datalists, starts and checkpoints.
        allow_leak: train and score although a datalist has one scan on two sides.
        tasks: by name; one that others need stands before them.
    """

    matrix: Matrix
    source: Path
    layout: str
    out: Path
    work: Path
    device: str = "auto"
    allow_leak: bool = False
    tasks: dict[str, Task] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for cell in self.matrix.cells():
            kept = self.out / "results" / f"{cell.name}.json"
            if kept.is_file():
                self._check_finished(cell, kept)
            else:
                self._add_cell(cell)

    def _check_finished(self, cell: Cell, kept: Path) -> None:
        """Refuse to add to a cell that was trained with other settings, such as a shipped overlay that has changed."""
        content = read_cell(kept, cell, self.matrix)
        if "configuration" in content:
            now = {**row_config(self.matrix, cell.row, cell.profile), "seed": cell.seed}
            if found := config_differences(content["configuration"], now):
                raise MatrixError(
                    f"{kept}: was trained with other settings than its row has now: {shorten(found)}. Give the new row "
                    "another `name`, use another folder, or remove the file, and the cell is trained anew."
                )

    def _add_cell(self, cell: Cell) -> None:
        config = row_config(self.matrix, cell.row, cell.profile)
        datalist = self._datalist(cell)
        starts = self._starts(cell)
        folder = self.work / "cells" / cell.name
        arguments = {
            "cell": self._described(cell, starts.get("init")),
            "folder": str(folder),
            "datalist": self._datalist_file(cell),
            "results": str(self.out / "results"),
            "arguments": self._training(cell, starts),
            "device": self.device,
        }
        needs = frozenset({datalist.name, *(task.name for task in starts.values())})
        self._add(Task(cell.name, f"{CELLS}:train_and_score", arguments, needs, _steps(config), folder))

    def _add(self, task: Task) -> Task:
        return self.tasks.setdefault(task.name, task)

    def _datalist(self, cell: Cell) -> Task:
        arguments = {
            "layout": self.layout,
            "source": str(self.source),
            "folder": str(Path(self._datalist_file(cell)).parent),
            "labeled": cell.labeled,
            "seed": cell.seed,
            "folds": self.matrix.folds,
            "fold": cell.fold,
        }
        return self._add(Task(f"data__{cell.split}", DATALIST, arguments))

    def _datalist_file(self, cell: Cell) -> str:
        return str(self.work / "data" / cell.split / "datalist.json")

    def _starts(self, cell: Cell) -> dict[str, Task]:
        """Labeled-only trainings by the id that takes their checkpoint: `init`, and what the method asks for more.

        The profile decides whether there are any, for rows with a native recipe too: such a recipe may have
        labeled-only epochs of its own, which then follow the start.
        """
        config = row_config(self.matrix, replace(cell.row, recipe="harmonised"), cell.profile)
        text = json.dumps(config)
        wanted: dict[str, tuple[str, int]] = {}
        if self.matrix.warm_start is not None and not config["pretrain_epochs"]:
            own = f"{cell.row.method}_{SHARED_START}"
            has_own = (bundle_folder() / "configs" / "methods" / f"{own}.json").is_file()
            wanted["init"] = (own if has_own else SHARED_START, cell.seed)
            if '"@second_init"' in text:
                wanted["second_init"] = (wanted["init"][0], cell.seed + OTHER_SEED)
        if '"@labeler_init"' in text:  # no start of the student but a network of its own, which every profile needs
            wanted["labeler_init"] = (SHARED_START, cell.seed)
        return {key: self._start(cell, method, seed) for key, (method, seed) in wanted.items()}

    def _start(self, cell: Cell, method: str, seed: int) -> Task:
        values = {**self._network_values(cell), **(self.matrix.warm_start or {})}
        # rows with another network have a start of their own
        mark = digest(values)[:8] if values else ""
        other = "" if seed == cell.seed else f"start{seed}"
        recipe = cell.row.recipe if method in native_methods() else "harmonised"
        called = method if recipe == "harmonised" else f"{method}_{recipe}"
        name = "__".join(part for part in (called, cell.profile, cell.split, mark, other) if part)
        base = bundle_folder() / "configs" / "train.json"
        config = compose(base, training_overlays(cell.profile, method, recipe=recipe), values).get()
        folder = self.work / "starts" / name
        training = {
            "profile": cell.profile,
            "method": method,
            "recipe": recipe,
            "seed": seed,
            "device": self.device,
            "overrides": values,
            **self._permission(),
        }
        arguments = {"folder": str(folder), "datalist": self._datalist_file(cell), "arguments": training}
        needs = frozenset({f"data__{cell.split}"})
        return self._add(Task(name, f"{CELLS}:train", arguments, needs, _steps(config), folder))

    def _network_values(self, cell: Cell) -> dict[str, Any]:
        """What a row changes of the network beyond its method's overlay: its start must be of the same network."""
        files = overlay_files(cell.row.config)
        layers: list[Mapping[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        values: dict[str, Any] = {}
        for layer in (self.matrix.overrides, *layers, cell.row.overrides):
            values.update({key: value for key, value in layer.items() if key.startswith("network_def#")})
        values.pop("network_def#embedding_size", None)  # starts have no projector
        return values

    def _training(self, cell: Cell, starts: Mapping[str, Task]) -> dict[str, Any]:
        """Arguments of `train_run`."""
        checkpoints = {key: str(Path(task.arguments["folder"]) / "last.pt") for key, task in starts.items()}
        init = checkpoints.pop("init", None)
        return {
            "profile": cell.profile,
            "method": cell.row.method,
            "recipe": cell.row.recipe,
            "config": [str(path) for path in overlay_files(cell.row.config)],
            "seed": cell.seed,
            "init": init,
            "device": self.device,
            "overrides": {**self.matrix.overrides, **cell.row.overrides, **checkpoints},
            **self._permission(),
        }

    def _permission(self) -> dict[str, bool]:
        return {"allow_leak": True} if self.allow_leak else {}

    def _described(self, cell: Cell, start: Task | None) -> dict[str, Any]:
        """What a result file says of its cell."""
        return {
            "name": cell.name,
            "row": cell.row.name,
            "label": cell.row.label,
            "method": cell.row.method,
            "profile": cell.profile,
            "labeled": cell.labeled,
            "seed": cell.seed,
            "fold": cell.fold,
            "recipe": cell.row.recipe,
            "config": list(cell.row.config),
            "overrides": {**self.matrix.overrides, **cell.row.overrides},
            "warm_start": None if start is None else {"name": start.name, "steps": start.steps},
        }


def _steps(config: Mapping[str, Any]) -> int:
    return int(config["max_epochs"]) * int(config["epoch_length"] or STEPS_OF_UNKNOWN_EPOCH)
