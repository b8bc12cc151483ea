"""A folder of scans -> masks, measurements, pictures and a report, with a record of what was done.

Results lie below OUT as the scans lie below INPUT (names: see `files.result_keys`): `masks/` in the format of the scan,
on request `overlays/`, `hardness/` and `probabilities/`; `frames/` holds the pictures of scans with several frames.
`lesions.csv`, `lesions.json` and `report.html` tell of all scans in OUT, `run.json` of the last run. A file that cannot
be read or segmented is reported and does not stop the others.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from phnet_monai import __version__
from phnet_monai.data.scan import is_dicom
from phnet_monai.distributed import current_shard
from phnet_monai.files import digest, locked, remove_partial_files
from phnet_monai.inference.files import RESULT_FOLDERS, Sources, check_paths, find_scans
from phnet_monai.inference.frames import FrameSettings
from phnet_monai.inference.naming import plan_jobs
from phnet_monai.inference.pipeline import Pipeline
from phnet_monai.inference.records import (
    DONE,
    FAILED,
    SKIPPED,
    Job,
    discard,
    finished_record,
    fits,
    known_records,
    read_record,
)
from phnet_monai.inference.summary import (
    RUN_FILE,
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
            holds results of another model, setting or input, which would be mixed with the new ones or replaced.
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
            print(f"failed: {name}: {reason}", file=sys.stderr)
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
        run.unreadable = unreadable
        with _owned(out) if shard.first else nullcontext():
            to_do = shard.broadcast(run.prepare(overwrite=overwrite, limit=limit) if shard.first else None)
            pipeline = Pipeline(predictor, out, settings, version=__version__)
            try:
                run.work(pipeline, shard.share(to_do), fail_fast=fail_fast, shown=shard.first)
                run.merge(shard.gather((run.failed, run.timing)))
                if shard.first:
                    run.conclude(to_do, report=report)
            except BaseException:  # an interrupted run leaves its record too, if there is room for it
                if shard.first and run.concluded is None:
                    with suppress(OSError):
                        run.write_run_file(run.result(to_do), finished=False)
                raise
        shard.wait()  # a process that ends in failure would end the first one while it writes
    return run.result(to_do) if run.concluded is None else run.concluded


def _unreadable(sources: Sources, *, anonymize: bool) -> dict[str, str]:
    """Shown name -> reason of folders that may not be looked into."""
    places = enumerate(sources.unreadable.items(), 1)
    return {f"unreadable-folder-{n}" if anonymize else place.as_posix(): reason for n, (place, reason) in places}


def require_readers(sources: Sources) -> None:
    """Raise MissingExtraError if all scans are DICOM and its libraries are missing; among others they fail alone."""
    if all(is_dicom(sources.folder / scan) for scan in sources.scans):
        from phnet_monai.inference.dicom_seg import require_highdicom

        require_highdicom()


def settings_digest(told: dict[str, Any]) -> str:
    """What records keep of model and settings; a model's file may be renamed, its content counts."""
    return digest({name: value for name, value in told.items() if name != "model"})


class _Run:
    """One run over a folder: `jobs` of all processes, and what has become of them."""

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
        self.failed: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}
        self.timing: dict[str, Any] = {}
        self.started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self.concluded: FolderResult | None = None

    def prepare(self, *, overwrite: bool, limit: int | None) -> list[Job]:
        """The jobs to do, in order. From here on the folder belongs to these settings."""
        earlier = known_records(self.out)
        if not overwrite:
            check_same_settings(self.out, self.told)
            check_same_input(self.out, self.jobs, earlier)
        drop_renamed(self.out, self.jobs, earlier)
        drop_other_settings(self.out, self.jobs, earlier)
        if overwrite:
            to_do = list(self.jobs)
            for name in WHOLE_FILES:  # they tell of results that will be gone
                (self.out / name).unlink(missing_ok=True)
        else:
            found = (_unfinished(self.out, job, earlier.get(job.record_file(self.out))) for job in self.jobs)
            to_do = [job for job in found if job is not None]
        self.write_run_file(FolderResult(self.out, pending=len(self.jobs)), finished=False)
        return to_do[:limit]

    def work(self, pipeline: Pipeline, mine: Sequence[Job], *, fail_fast: bool, shown: bool) -> None:
        begun = time.perf_counter()
        bar = tqdm(total=len(mine), unit="scan", disable=None if shown and not self.quiet else True, file=sys.stderr)
        try:
            # closed: an interrupted run completes what it writes
            with bar, closing(pipeline.run(mine)) as results:
                for _, record in results:
                    if record["status"] == FAILED:
                        self.failed[record["image"]] = record["reason"]
                        tqdm.write(f"failed: {record['image']}: {record['reason']}", file=sys.stderr)
                    bar.update()
                    if fail_fast and (self.failed or self.unreadable):
                        return
        finally:
            self.timing = {"seconds": time.perf_counter() - begun, "frames": pipeline.frames}

    def merge(self, shares: Sequence[tuple[dict[str, str], dict[str, Any]]]) -> None:
        """Failures of all processes; frames of all, seconds of the slowest."""
        self.failed = {name: reason for failed, _ in shares for name, reason in failed.items()}
        timings = [timing for _, timing in shares]
        seconds, frames = max(t["seconds"] for t in timings), sum(t["frames"] for t in timings)
        self.timing = {"seconds": seconds, "frames": frames}

    def conclude(self, to_do: Sequence[Job], *, report: bool) -> None:
        """Tables, report, run.json, and the summary on the terminal."""
        result = self.result(to_do)
        write_tables(self.out, self.jobs[0].settings)
        if report:
            write_html(result, self.jobs[0].settings, self.told)
        self.write_run_file(result, finished=result.pending == 0)
        self.concluded = result
        if not self.quiet:
            _tell(result)

    def result(self, to_do: Sequence[Job]) -> FolderResult:
        """What became of each job, by its record on the disk or its failure."""
        now = {job.name for job in to_do}
        closed = [FileRecord(name, FAILED, reason=reason) for name, reason in self.unreadable.items()]
        files = []
        for job in self.jobs:
            record = read_record(job.record_file(self.out))
            if job.name in self.failed:
                files.append(FileRecord(job.name, FAILED, reason=self.failed[job.name]))
            elif record is not None and (record["settings"], record["image"]) == (job.settings, job.name):
                files.append(FileRecord.of(record, DONE if job.name in now else SKIPPED))
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
        write_run_file(result, self.told, source=self.source, finished=finished, timing=timing)


def _unfinished(out: Path, job: Job, record: dict[str, Any] | None) -> Job | None:
    """The job, if there is something to do. Kinds of results that were made before and are not asked for now are made
    anew with it (a scan that was damaged or has changed keeps its probabilities)."""
    if record is None:
        return job
    if fits(out, job, record):
        return None
    same = (record["image"], record["settings"], record["origin"]) == (job.name, job.settings, job.origin)
    return replace(job, kinds=tuple(dict.fromkeys([*job.kinds, *record["kinds"]]))) if same else job


def drop_renamed(out: Path, jobs: Sequence[Job], earlier: dict[Path, dict[str, Any]]) -> None:
    """Remove results of a scan that now go by another name (`x.png` keeps its ending once `x.jpg` lies beside it)."""
    current = {job.origin: job for job in jobs if job.origin}
    for path, record in earlier.items():
        job = current.get(record["origin"])
        if job is not None and path != job.record_file(out):
            discard(out, path)


def drop_other_settings(out: Path, jobs: Sequence[Job], earlier: dict[Path, dict[str, Any]]) -> None:
    """Remove results of the jobs that another model or setting made: a run that is cut short shall not leave them among
    new ones. Those of the same settings stay until each is replaced."""
    for job in jobs:
        record = earlier.get(job.record_file(out))
        if record is not None and record["settings"] != job.settings:
            discard(out, job.record_file(out))


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
    overwrite: bool = False,
    anonymize: bool = False,
    limit: int | None = None,
) -> list[str]:
    """What a run would do, a line per scan; nothing is written and no model is loaded.

    Finished are scans that the last run has done, or one before with its model and settings: a run with others refuses
    them.
    """
    source, out = check_paths(input, out)
    sources, left, last = find_scans(source), limit, _last_settings(out)
    lines = [f"failed: {name}: {reason}" for name, reason in _unreadable(sources, anonymize=anonymize).items()]
    for job in plan_jobs(sources, kinds, anonymize=anonymize):
        record = None if overwrite else read_record(job.record_file(out))
        told = None if record is None else settings_digest(last) if last is not None else record["settings"]
        if told is not None and finished_record(out, replace(job, settings=told)) is not None:
            state = "finished"
        elif left == 0:
            state = "later"
        else:
            state, left = "to do", None if left is None else left - 1
        lines.append(f"{state}: {job.name} -> masks/{job.key}")
    return lines


def check_same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError if `out` has a readable run.json of other settings (weights, input size, threshold, ...)."""
    earlier = _last_settings(out)
    if earlier is None:
        return  # nothing to compare with; records have their own digest
    compared = [name for name in settings if name != "model"]  # a file may be renamed: its digest counts
    different = [name for name in compared if earlier.get(name) != settings[name]]
    if different:
        changes = ", ".join(f"{name} {earlier.get(name)} then, {settings[name]} now" for name in different)
        raise ValueError(
            f"{out} holds results made with other settings ({changes}). Choose another output folder, or replace the "
            "results with --overwrite."
        )


def _last_settings(out: Path) -> dict[str, Any] | None:
    """The settings in `out`'s run.json; None where there is none that can be read."""
    try:
        found = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def check_same_input(out: Path, jobs: Sequence[Job], earlier: dict[Path, dict[str, Any]]) -> None:
    """Raise ValueError if a scan would replace the results of another file: of the same name from another folder, or of
    the same name but for the ending, which a run that did not see both told apart."""
    for job in jobs:
        record = earlier.get(job.record_file(out)) if job.origin else None
        if record is not None and record["origin"] not in ("", job.origin):
            raise ValueError(
                f"{out} holds results under the name {job.key.as_posix()!r} of another file, {record['image']!r} of an "
                f"earlier input; {job.name!r} would replace them. Choose another output folder, segment both files in "
                "one run, or replace the results with --overwrite."
            )


def _tell(result: FolderResult) -> None:
    done = result.with_status(DONE)
    empty = sum(record.lesion_pixels == 0 for record in done)
    counts = result.counts
    left = f", {result.pending} left" if result.pending else ""
    print(
        f"{counts[DONE]} segmented ({empty} without lesion), {counts[SKIPPED]} finished earlier, "
        f"{counts[FAILED]} failed{left}; results in {result.out}"
    )
