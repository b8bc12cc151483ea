"""A folder of scans -> masks, measurements, pictures and a report, with a record of what was done.

Results lie below OUT as the scans lie below INPUT (names: see `files.result_keys`): `masks/` in the format of the scan,
on request `overlays/`, `hardness/` and `probabilities/`; `frames/` holds the pictures of scans with several frames.
`lesions.csv`, `lesions.json` and `report.html` tell of all scans in OUT, `run.json` of the last run. A file that cannot
be read or segmented is reported and does not stop the others.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from phnet_monai import __version__
from phnet_monai.data.scan import is_dicom
from phnet_monai.distributed import current_shard
from phnet_monai.files import digest, locked, remove_partial_files, terminal_text
from phnet_monai.inference.earlier import (
    check_no_names,
    check_own_files,
    check_same_input,
    check_same_records,
    check_same_settings,
    drop_other_settings,
    failed_names,
    last_settings,
    unfinished,
    with_earlier_names,
)
from phnet_monai.inference.files import RESULT_FOLDERS, Sources, check_paths, find_scans
from phnet_monai.inference.frames import FrameSettings
from phnet_monai.inference.naming import failure_line, plan_jobs
from phnet_monai.inference.pipeline import Pipeline
from phnet_monai.inference.records import (
    DONE,
    FAILED,
    PASSED_OVER,
    SKIPPED,
    Job,
    discard,
    fits,
    known_records,
    read_record,
    remove_empty_folders,
    stale,
)
from phnet_monai.inference.report import REPORT_FILE
from phnet_monai.inference.summary import (
    WHOLE_FILES,
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
        overwrite: do finished scans again. Else a scan counts as finished where its record fits (see `records`).
        limit: do at most this many scans now.
        fail_fast: stop at the first scan that fails (under `torchrun`: of each process).
        quiet: no progress bar (it is shown on terminals only) and no summary; failures are still listed on stderr.

    Returns:
        what became of each scan (under `torchrun`, in the first process, of all; in the others of their share). With
        no scan at all nothing is written.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: the paths do not fit (see `files.check_paths`), or `out`
            holds results of another model, setting or input, which would be mixed with the new ones or replaced, or
            files that are no results and would be overwritten.
        BlockingIOError: another run is at work in `out`.
        OSError: the disk is full or read-only; what was finished before is kept.
        MissingExtraError: all scans are DICOM, and the extra `dicom` is not installed.
    """
    source, out = check_paths(input, out)
    settings = settings or FrameSettings()
    told = {**predictor.settings, **settings.as_settings(), "anonymize": anonymize}
    sources = find_scans(source)
    unreadable = _unreadable(sources, anonymize=anonymize)
    if current_shard().first:
        for name, reason in unreadable.items():
            print(terminal_text(f"failed: {name}: {reason}"), file=sys.stderr)
        for note in _passed_over(sources, anonymize=anonymize):
            print(terminal_text(note), file=sys.stderr)
    if not sources.scans:
        return FolderResult(out, [FileRecord(name, FAILED, reason=reason) for name, reason in unreadable.items()])
    require_readers(sources)
    wanted = {"overlays": overlays, "hardness": hardness, "probabilities": probabilities}
    kinds = ["masks", *(kind for kind, asked in wanted.items() if asked)]
    jobs = plan_jobs(sources, kinds, settings=settings_digest(told), anonymize=anonymize)
    shard = current_shard()
    with shard.joined():
        means = {"device": str(predictor.device), "batch_size": predictor.batch_size, "processes": shard.world}
        run = _Run(jobs, out, told, source=None if anonymize else str(input), means=means, quiet=quiet)
        run.unreadable, run.masks = unreadable, len(sources.masks)
        with _owned(out) if shard.first else nullcontext():
            prepared = run.prepare(overwrite=overwrite, limit=limit) if shard.first else None
            to_do, run.before = shard.broadcast(prepared)
            pipeline = Pipeline(predictor, out, settings, version=__version__)
            try:
                run.work(pipeline, shard.share(to_do), fail_fast=fail_fast, shown=shard.first)
                run.merge(shard.gather((run.failed, run.passed_over, run.timing)))
                if shard.first:
                    run.conclude(report=report)
            except BaseException:  # an interrupted run leaves its record too, if there is room for it
                if shard.first and run.concluded is None:
                    with suppress(OSError):
                        run.write_run_file(run.result(), finished=False)
                raise
        shard.wait()  # a process that ends in failure would end the first one while it writes
    return run.result() if run.concluded is None else run.concluded


def _unreadable(sources: Sources, *, anonymize: bool) -> dict[str, str]:
    """Shown name -> reason of folders that may not be looked into."""
    places = enumerate(sources.unreadable.items(), 1)
    return {f"unreadable-folder-{n}" if anonymize else place.as_posix(): reason for n, (place, reason) in places}


def _passed_over(sources: Sources, *, anonymize: bool) -> list[str]:
    """A line for each folder of earlier results among the images, one for masks and one for pictures of other kinds:
    whoever keeps images in such a folder, or under such names, has to know."""
    places = enumerate(sources.results, 1)
    shown = [f"folder-of-results-{n}" if anonymize else place.as_posix() for n, place in places]
    lines = [f"passed over: {place}: holds results of an earlier run" for place in shown]
    if sources.masks:
        example = "" if anonymize else f" (such as {sources.masks[0].as_posix()})"
        lines.append(f"passed over: masks of images by their names: {len(sources.masks)}{example}")
    if sources.others:
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(sources.others.items()))
        lines.append(f"passed over: pictures of kinds that are not read: {kinds}; convert them to PNG")
    return lines


def require_readers(sources: Sources) -> None:
    """Raise MissingExtraError if all scans are DICOM and its libraries are missing; among others they fail alone."""
    if all(is_dicom(sources.folder / scan) for scan in sources.scans):
        from phnet_monai.inference.dicom_seg import require_highdicom

        require_highdicom()


def settings_digest(told: dict[str, Any]) -> str:
    """What records keep of model and settings; a model's file may be renamed, its content counts."""
    return digest({name: value for name, value in told.items() if name != "model"})


_File = tuple[int, int] | None


class _Run:
    """One run over a folder: `jobs` of all processes, and what has become of them.

    Attributes:
        before: of each job that is not finished already, which record file was there (by inode and time) or None: one
            that is there later and is another was made by this run.
        foreign: record files that are of another model or setting when the run begins.
        masks, others: what run.json counts of the input and of the folder (`write_run_file`).
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        out: Path,
        told: dict[str, Any],
        *,
        source: str | None,
        means: dict[str, Any],
        quiet: bool,
    ) -> None:
        self.jobs, self.out, self.told, self.quiet = jobs, out, told, quiet
        self.source, self.means = source, means
        self.before: dict[str, _File] = {}
        self.failed: dict[str, str] = {}
        self.passed_over: dict[str, str] = {}
        self.failed_before: set[str] = set()
        self.unreadable: dict[str, str] = {}
        self.masks = self.others = 0
        self.foreign: list[Path] = []
        self.timing: dict[str, Any] = {}
        self.started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self.concluded: FolderResult | None = None

    def prepare(self, *, overwrite: bool, limit: int | None) -> tuple[list[Job], dict[str, _File]]:
        """The jobs to do, in order, and `before`. From here on the folder belongs to these settings."""
        earlier = known_records(self.out)
        check_own_files(self.out, self.jobs, earlier)
        if not overwrite:
            check_same_settings(self.out, self.told)
            check_same_records(self.out, self.jobs, earlier)
            check_same_input(self.out, self.jobs, earlier)
        self.failed_before = failed_names(self.out)
        self.jobs = with_earlier_names(self.out, self.jobs, earlier)
        drop_other_settings(self.out, self.jobs, earlier)
        self.foreign = [path for path, record in earlier.items() if record["settings"] != self.jobs[0].settings]
        if self.told["anonymize"]:
            check_no_names(self.out, earlier)
        if overwrite:
            to_do = list(self.jobs)
            for path, record in earlier.items():  # names beside hashes would tell which is which
                if (record["origin"] == "") != self.told["anonymize"]:
                    discard(self.out, path)
            remove_empty_folders(self.out)
            for name in WHOLE_FILES:  # they tell of results that will be gone
                (self.out / name).unlink(missing_ok=True)
        else:
            found = (unfinished(self.out, job, earlier.get(job.record_file(self.out))) for job in self.jobs)
            to_do = [job for job in found if job is not None]
        for job in to_do:
            for path in job.replaces:
                if stale(self.out, earlier[path], job.path):
                    discard(self.out, path)
        # what gave no result when it was last tried comes last, or a limit might never get past it
        to_do.sort(key=lambda job: job.name in self.failed_before)
        self.write_run_file(FolderResult(self.out, pending=len(self.jobs)), finished=False)
        return to_do[:limit], {job.name: _file(job.record_file(self.out)) for job in to_do}

    def work(self, pipeline: Pipeline, mine: Sequence[Job], *, fail_fast: bool, shown: bool) -> None:
        begun = time.perf_counter()
        bar = tqdm(total=len(mine), unit="scan", disable=None if shown and not self.quiet else True, file=sys.stderr)
        try:
            # closed: an interrupted run completes what it writes
            with bar, closing(pipeline.run(mine)) as results:
                for _, record in results:
                    if record["status"] == PASSED_OVER:
                        self.passed_over[record["image"]] = record["reason"]
                    elif record["status"] == FAILED:
                        self.failed[record["image"]] = record["reason"]
                        line = f"failed: {failure_line(record['image'], record['reason'])}"
                        tqdm.write(terminal_text(line), file=sys.stderr)
                    bar.update()
                    if fail_fast and (self.failed or self.unreadable):
                        return
        finally:
            self.timing = {"seconds": time.perf_counter() - begun, "frames": pipeline.frames}

    def merge(self, shares: Sequence[tuple[dict[str, str], dict[str, str], dict[str, Any]]]) -> None:
        """Failures and what was passed over of all processes; frames of all, seconds of the slowest."""
        self.failed = {name: reason for failed, _, _ in shares for name, reason in failed.items()}
        self.passed_over = {name: reason for _, passed, _ in shares for name, reason in passed.items()}
        timings = [timing for *_, timing in shares]
        seconds, frames = max(t["seconds"] for t in timings), sum(t["frames"] for t in timings)
        self.timing = {"seconds": seconds, "frames": frames}

    def conclude(self, *, report: bool) -> None:
        """Tables, report, run.json, and the summary on the terminal."""
        result = self.result()
        now = [read_record(path) for path in self.foreign]
        self.others = sum(record is not None and record["settings"] != self.jobs[0].settings for record in now)
        write_tables(self.out, self.jobs[0].settings)
        (self.out / REPORT_FILE).unlink(missing_ok=True)  # it would tell of an earlier run
        if report:
            write_html(result, self.jobs[0].settings, self.told)
        self.write_run_file(result, finished=result.pending == 0)
        self.concluded = result
        if self.others:
            print(
                f"{self.others} results of another model or setting are left in {self.out}, and in neither tables nor "
                "report; a run over their images with --overwrite replaces them",
                file=sys.stderr,
            )
        _warn_of_other_modalities(result)
        if not self.quiet:
            _tell(result)

    def result(self) -> FolderResult:
        """What became of each job, by its record on the disk or its failure."""
        closed = [FileRecord(name, FAILED, reason=reason) for name, reason in self.unreadable.items()]
        files = []
        for job in self.jobs:
            path = job.record_file(self.out)
            if job.name in self.failed:
                files.append(FileRecord(job.name, FAILED, reason=self.failed[job.name]))
            elif job.name in self.passed_over:
                files.append(FileRecord(job.name, PASSED_OVER, reason=self.passed_over[job.name]))
            elif job.name in self.before and _file(path) == self.before[job.name]:
                continue  # this run has not come to it
            elif (record := read_record(path)) is not None:
                files.append(FileRecord.of(record, DONE if job.name in self.before else SKIPPED))
        return FolderResult(self.out, [*closed, *files], pending=len(self.jobs) - len(files))

    def write_run_file(self, result: FolderResult, *, finished: bool) -> None:
        seconds, frames = self.timing.get("seconds", 0.0), self.timing.get("frames", 0)
        timing = {
            **self.means,
            "started": self.started,
            "written": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "frames": frames,
            "frames_per_second": round(frames / seconds, 3) if seconds else None,
        }
        known = {job.name for job in self.jobs} - {file.image for file in result.files}
        write_run_file(
            result,
            self.told,
            source=self.source,
            finished=finished,
            timing=timing,
            failed_earlier=list(self.failed_before & known),
            masks=self.masks,
            others=self.others,
        )


def _file(path: Path) -> _File:
    """What tells a file from one that takes its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextmanager
def _owned(out: Path) -> Iterator[None]:
    """One run per folder at a time; what a killed one left half-written is removed."""
    with locked(out, "`phnet infer`"):
        for folder in (out, *(out / name for name in RESULT_FOLDERS)):
            remove_partial_files(folder, below=folder != out)
        yield


def preview(
    input: str | Path,
    out: str | Path,
    *,
    kinds: Sequence[str],
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
    anonymize: bool = False,
    limit: int | None = None,
) -> list[str]:
    """What a run would do, a line per scan; nothing is written and no model is loaded.

    Finished are scans that the last run has done, or one before with its model and settings.

    Args:
        settings: what is known of model and settings; a run that would refuse them is refused here.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: as `infer_folder`.
    """
    source, out = check_paths(input, out)
    sources, left, last = find_scans(source), limit, last_settings(out)
    lines = [f"failed: {name}: {reason}" for name, reason in _unreadable(sources, anonymize=anonymize).items()]
    lines += _passed_over(sources, anonymize=anonymize)
    jobs, earlier = plan_jobs(sources, kinds, anonymize=anonymize), known_records(out)
    check_own_files(out, jobs, earlier)
    if anonymize:
        check_no_names(out, earlier)
    if not overwrite:
        check_same_settings(out, {**(settings or {}), "anonymize": anonymize})
        check_same_input(out, jobs, earlier)
    failed_before = failed_names(out)
    for job in sorted(jobs, key=lambda job: job.name in failed_before):
        record = None if overwrite else earlier.get(job.record_file(out))
        told = None if record is None else settings_digest(last) if last is not None else record["settings"]
        if record is not None and told is not None and fits(out, replace(job, settings=told), record):
            state = "finished" if last is not None else "finished (or refused, if its model or settings were others)"
        elif left == 0:
            state = "later"
        else:
            state, left = "to do", None if left is None else left - 1
        lines.append(f"{state}: {job.name} -> masks/{job.key}")
    return lines


def _warn_of_other_modalities(result: FolderResult) -> None:
    others = Counter(file.other_modality for file in result.files if file.other_modality)
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        warning = (
            f"warning: DICOM files that are no ultrasound by their modality: {kinds}. The model knows breast "
            "ultrasound alone: their results mean nothing; run.json names them"
        )
        print(terminal_text(warning), file=sys.stderr)


def _tell(result: FolderResult) -> None:
    done = result.with_status(DONE)
    empty = sum(record.lesion_pixels == 0 for record in done)
    counts = result.counts
    left = f", {result.pending} left" if result.pending else ""
    if passed := len(result.with_status(PASSED_OVER)):
        left = f", {passed} without an image passed over (run.json tells why){left}"
    print(
        f"{counts[DONE]} segmented ({empty} without lesion), {counts[SKIPPED]} finished earlier, "
        f"{counts[FAILED]} failed{left}; results in {result.out}"
    )
