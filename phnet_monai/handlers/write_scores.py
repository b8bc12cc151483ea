"""Scores of an evaluation as files."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Events

from phnet_monai.engines.evaluator import LesionEvaluator
from phnet_monai.metrics import format_summary, write_scores


class WriteScores:
    """At the end of an evaluation: `per_image.csv` and `summary.json` in `folder`; logs the table."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def attach(self, engine: LesionEvaluator) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: LesionEvaluator) -> None:
        summary = write_scores(engine.scores, self.folder)
        engine.logger.info("%s\n%s", self.folder, format_summary(summary))
