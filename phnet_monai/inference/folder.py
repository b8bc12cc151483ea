"""A folder of scans -> masks, measurements, pictures and a report, with a record of what was done.

Results lie below OUT as the scans lie below INPUT (names: see `files.result_keys`): `masks/` in the format of the scan,
on request `overlays/`, `hardness/` and `probabilities/`; `frames/` holds the pictures of scans with several frames.
`lesions.csv`, `lesions.json`, `report.html` and `run.json` tell of the whole folder. A file that cannot be read or
segmented is reported and does not stop the others.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from phnet_monai import __version__
from phnet_monai.files import locked, remove_partial_files
from phnet_monai.inference.files import RESULT_FOLDERS, check_paths, find_scans
from phnet_monai.inference.frames import FrameSettings
from phnet_monai.inference.naming import plan_jobs
from phnet_monai.inference.pipeline import Pipeline
from phnet_monai.inference.records import Job, discard, finished_record
from phnet_monai.inference.shards import Shard, current_shard
from phnet_monai.inference.summary import (
    DONE,
    FAILED,
    RUN_FILE,
    SKIPPED,
    FileRecord,
    FolderResult,
    write_html,
    write_run_file,
    write_tables,
)

if TYPE_CHECKING:
    from phnet_monai.inference.predictor import Predictor


def infer_folder(
    input: str | Path,
    out: str | Path,
    predictor: Predictor,
    *,
    overlays: bool = True,
    hardness: bool = False,
    probabilities: bool = False,
    settings: FrameSettings | None = None,
    report: bool = True,
    anonymize: bool = False,
    overwrite: bool = False,
    limit: int | None = None,
    fail_fast: bool = False,
    quiet: bool = False,
) -> FolderResult:
    """Segment one scan, all scans of a folder, or those that a pattern matches.

    Under `torchrun` every process does its share; the first one writes tables, report and run.json of all.

    Args:
        input: a scan, a folder that is searched with its subfolders, or a pattern such as `scans/**/*.dcm`.
        out: folder for the results; made where it is missing. It must not lie in `input`.
        predictor: the model.
        overlays, hardness, probabilities: which results to write besides the masks.
        settings: threshold, post-processing, spacing.
        report: write report.html.
        anonymize: replace file names by hashes of the files' content everywhere in the results.
        overwrite: do finished scans again. Else a scan counts as finished where its record says that the same
            file was segmented and all asked results are there, whole.
        limit: do at most this many scans now.
        fail_fast: stop at the first scan that fails.
        quiet: no progress bar (it is shown on terminals only) and no summary; failures are still listed on stderr.

    Returns:
        what became of each scan (under `torchrun`, in the first process, of all; in the others of their share). With
        no scan at all nothing is written.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: the paths do not fit (see `files.check_paths`), or `out`
            holds results of another model or threshold, which would be mixed with the new ones.
        BlockingIOError: another run is at work in `out`.
    """
    source, out = check_paths(input, out)
    settings = settings or FrameSettings()
    told = {**predictor.settings, **settings.as_settings(), "anonymize": anonymize}
    sources = find_scans(source)
    if not sources.scans:
        return FolderResult(out)
    if not overwrite:
        check_same_settings(out, told)
    wanted = {"overlays": overlays, "hardness": hardness, "probabilities": probabilities}
    kinds = ["masks", *(kind for kind, asked in wanted.items() if asked)]
    jobs = plan_jobs(sources, kinds, anonymize=anonymize)
    shown_source = None if anonymize else str(input)
    shard = current_shard()
    with _owned(out, shard):
        if shard.rank == 0:  # from here on the folder belongs to these settings
            write_run_file(FolderResult(out), told, source=shown_source, finished=False)
        run = _Run(jobs, shard, out, Pipeline(predictor, out, settings, version=__version__))
        try:
            run.work(overwrite=overwrite, limit=limit, fail_fast=fail_fast, quiet=quiet)
        finally:  # an interrupted run leaves its record too
            interrupted = sys.exc_info()[0] is not None
            shares = [run.share()] if interrupted else shard.gather(run.share())
            result = run.merged(shares or [run.share()])
            if shard.rank == 0:
                finished = not interrupted and result.pending == 0
                write_run_file(result, told, source=shown_source, finished=finished, timing=run.timing())
        if shard.rank == 0:
            write_tables(out, jobs)
            if report:
                write_html(result, jobs, told)
            _tell(result, quiet=quiet)
    shard.close()
    return result


class _Run:
    """The work of this process on its share of the jobs."""

    def __init__(self, jobs: Sequence[Job], shard: Shard, out: Path, pipeline: Pipeline) -> None:
        self.jobs, self.mine, self.out, self.pipeline = jobs, shard.share(jobs), out, pipeline
        self.shown = shard.rank == 0
        self.records: dict[str, FileRecord] = {}
        self.seconds = 0.0

    def work(self, *, overwrite: bool, limit: int | None, fail_fast: bool, quiet: bool) -> None:
        if overwrite:  # removed first: a run cut short must not leave masks of two models side by side
            for job in self.mine:
                discard(self.out, job)
        to_do = []
        for job in self.mine:
            record = finished_record(self.out, job)
            if record is None:
                to_do.append(job)
            else:
                self.records[job.name] = FileRecord.of(record, SKIPPED)
        to_do = to_do[:limit]
        begun = time.perf_counter()
        hidden = True if quiet or not self.shown else None  # None: on terminals only
        bar = tqdm(total=len(to_do), unit="scan", disable=hidden, file=sys.stderr)
        with bar, closing(self.pipeline.run(to_do)) as results:  # closed: an interrupted run completes what it writes
            for job, record in results:
                self.records[job.name] = FileRecord.of(record, DONE)
                self.seconds = time.perf_counter() - begun
                bar.update()
                if fail_fast and self.records[job.name].status == FAILED:
                    return

    def share(self) -> dict[str, FileRecord]:
        return self.records

    def merged(self, shares: Sequence[dict[str, FileRecord]]) -> FolderResult:
        """All shares in the order of the jobs."""
        found = {name: record for share in shares for name, record in share.items()}
        files = [found[job.name] for job in self.jobs if job.name in found]
        return FolderResult(self.out, files, pending=len(self.jobs) - len(files))

    def timing(self) -> dict[str, Any]:
        """Seconds and frames of this process; the model's loading is not counted."""
        frames = self.pipeline.frames
        each = round(frames / self.seconds, 3) if self.seconds else None
        return {"seconds": round(self.seconds, 3), "frames": frames, "frames_per_second": each}


@contextmanager
def _owned(out: Path, shard: Shard) -> Iterator[None]:
    """One run per folder at a time; what a killed one left half-written is removed."""
    if shard.rank > 0:
        yield
        return
    with locked(out, "`phnet infer`"):
        for name in RESULT_FOLDERS:
            remove_partial_files(out / name)
        yield


def preview(input: str | Path, out: str | Path, *, kinds: Sequence[str], overwrite: bool, anonymize: bool) -> list[str]:
    """What a run would do, a line per scan; nothing is written and no model is loaded."""
    source, out = check_paths(input, out)
    lines = []
    for job in plan_jobs(find_scans(source), kinds, anonymize=anonymize):
        finished = not overwrite and finished_record(out, job) is not None
        lines.append(f"{'finished' if finished else 'to do'}: {job.name} -> masks/{job.key}")
    return lines


def check_same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError if `out` has a readable run.json of other settings (weights, input size, threshold, ...)."""
    try:
        earlier = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))["settings"]
        compared = [name for name in settings if name != "model"]  # a file may be renamed: its digest counts
        different = [name for name in compared if earlier.get(name) != settings[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # no record of a run: nothing to compare with
    if different:
        changes = ", ".join(f"{name} {earlier.get(name)} then, {settings[name]} now" for name in different)
        raise ValueError(
            f"{out} holds results made with other settings ({changes}). Choose another output folder, or replace the "
            "results with --overwrite."
        )


def _tell(result: FolderResult, *, quiet: bool) -> None:
    """Summary on stdout, failures on stderr."""
    for record in result.with_status(FAILED):
        print(f"failed: {record.image}: {record.reason}", file=sys.stderr)
    if quiet:
        return
    done = result.with_status(DONE)
    empty = sum(record.lesion_pixels == 0 for record in done)
    counts = result.counts
    left = f", {result.pending} left" if result.pending else ""
    print(
        f"{counts[DONE]} segmented ({empty} without lesion), {counts[SKIPPED]} finished earlier, "
        f"{counts[FAILED]} failed{left}; results in {result.out}"
    )
