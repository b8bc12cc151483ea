"""A folder of images -> masks, overlays and probabilities, with a record of what was done.

Results lie below OUT as the images lie below INPUT (names: see `files.result_names`): `masks/` (0 and 255,
of the image's own size), `overlays/` and, on request, `probabilities/` (8-bit). `run.json` holds settings,
versions, counts and the fate of each file. A file that cannot be read or segmented is reported and does not
stop the others.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from phnet_monai import __version__
from phnet_monai.data.decode import read_image
from phnet_monai.files import write_json
from phnet_monai.inference.files import RESULT_FOLDERS, check_paths, find_images, result_names
from phnet_monai.inference.overlay import draw_overlay
from phnet_monai.inference.writers import write_mask, write_png, write_probabilities

if TYPE_CHECKING:
    from phnet_monai.inference.predictor import Predictor

RUN_FILE = "run.json"
DONE, SKIPPED, FAILED = "done", "skipped", "failed"
SOME_FAILED, NOTHING_TO_DO = 3, 4
_READERS = 2
"""Threads that decode the next images while the network works on the present ones."""


@dataclass(frozen=True)
class FileRecord:
    """What became of one image: `status` is done, skipped (finished earlier) or failed, then with a `reason`."""

    image: str
    status: str
    mask: str | None = None
    reason: str | None = None
    height: int | None = None
    width: int | None = None
    lesion_pixels: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class FolderResult:
    """What became of a folder, in the order of its images."""

    out: Path
    files: list[FileRecord] = field(default_factory=list)

    def with_status(self, status: str) -> list[FileRecord]:
        return [record for record in self.files if record.status == status]

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(record.status for record in self.files)
        return {status: found[status] for status in (DONE, SKIPPED, FAILED)}

    @property
    def exit_code(self) -> int:
        """0 all well, 3 some files failed, 4 there was no image."""
        if not self.files:
            return NOTHING_TO_DO
        return SOME_FAILED if self.with_status(FAILED) else 0


@dataclass(frozen=True)
class _Job:
    """One image, its name below INPUT, the name of its results below each result folder, and the files to write."""

    image: Path
    name: Path
    result: Path
    targets: dict[str, Path]


def infer_folder(
    input: str | Path,
    out: str | Path,
    predictor: Predictor,
    *,
    overlays: bool = True,
    probabilities: bool = False,
    threshold: float = 0.5,
    overwrite: bool = False,
    quiet: bool = False,
) -> FolderResult:
    """Segment one image or all images of a folder.

    Args:
        input: an image, or a folder that is searched with its subfolders.
        out: folder for the results; made where it is missing. It must not lie in `input`.
        predictor: the model.
        overlays, probabilities: which results to write besides the masks.
        threshold: a pixel is lesion where its probability is above this, in (0, 1).
        overwrite: do finished images again. Else an image counts as finished where all asked results are
            there.
        quiet: no progress bar (it is shown on terminals only) and no summary; failures are still listed on stderr.

    Returns:
        what became of each image. With no image at all nothing is written.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: the paths do not fit (see `files.check_paths`),
            the threshold is not in (0, 1), or `out` holds results of another model or threshold, which
            would be mixed with the new ones.
    """
    source, out = check_paths(input, out)
    settings = {**predictor.settings, "threshold": check_threshold(threshold)}
    images = find_images(source)
    if not images:
        return FolderResult(out)
    if not overwrite:
        check_same_settings(out, settings)
    kinds = ["masks"] + ["overlays"] * overlays + ["probabilities"] * probabilities
    jobs = _plan(source, images, out, kinds)
    # from here on the folder belongs to these settings
    write_json(out / RUN_FILE, _report(source, settings, FolderResult(out), finished=False))
    to_do, records = _divide(jobs, out, overwrite=overwrite)
    try:
        with tqdm(total=len(to_do), unit="image", disable=True if quiet else None, file=sys.stderr) as bar:
            for job, record in _run(to_do, predictor, threshold):
                records[job.name] = record
                bar.update()
    finally:  # an interrupted run leaves its record too
        result = FolderResult(out, [records[job.name] for job in jobs if job.name in records])
        complete = len(records) == len(jobs)
        write_json(out / RUN_FILE, _report(source, settings, result, finished=complete))
    _tell(result, quiet=quiet)
    return result


def check_threshold(threshold: float) -> float:
    """`threshold` as float. Raises ValueError unless it is in (0, 1)."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1 (both excluded), found {threshold}")
    return float(threshold)


def check_same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError if `out` has a readable run.json of other settings (weights, input size, threshold)."""
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


def _plan(source: Path, images: Sequence[Path], out: Path, kinds: Sequence[str]) -> list[_Job]:
    folder = source if source.is_dir() else source.parent
    names = result_names(images)
    return [_Job(folder / i, i, names[i], {kind: out / kind / names[i] for kind in kinds}) for i in images]


def _divide(jobs: Sequence[_Job], out: Path, *, overwrite: bool) -> tuple[list[_Job], dict[Path, FileRecord]]:
    """Jobs to do, and the records of those that are finished.

    With `overwrite` earlier results are removed first: should this run be cut short, the next one cannot
    take a mask of another model for one of its own.
    """
    if overwrite:
        for job in jobs:
            for kind in RESULT_FOLDERS:
                (out / kind / job.result).unlink(missing_ok=True)
    finished = [job for job in jobs if all(target.is_file() for target in job.targets.values())]
    records = {job.name: _record(job, SKIPPED) for job in finished}
    return [job for job in jobs if job.name not in records], records


def _record(job: _Job, status: str, **more: Any) -> FileRecord:
    mask = None if status == FAILED else (Path("masks") / job.result).as_posix()
    return FileRecord(job.name.as_posix(), status, mask=mask, **more)


def _run(jobs: Sequence[_Job], predictor: Predictor, threshold: float) -> Iterator[tuple[_Job, FileRecord]]:
    """Read, segment and write the jobs batch by batch; yield each with its record."""
    batch: list[tuple[_Job, np.ndarray]] = []
    for job, image in _read_ahead(jobs, 2 * predictor.batch_size):
        if isinstance(image, BaseException):
            yield job, _record(job, FAILED, reason=_reason(image))
            continue
        batch.append((job, image))
        if len(batch) == predictor.batch_size:
            yield from _finish(batch, predictor, threshold)
            batch = []
    yield from _finish(batch, predictor, threshold)


def _read_ahead(jobs: Iterable[_Job], ahead: int) -> Iterator[tuple[_Job, np.ndarray | BaseException]]:
    """Each job in order with its image, or with the error of reading it; at most `ahead` images wait in memory."""
    waiting: list[tuple[_Job, Future[np.ndarray]]] = []
    with ThreadPoolExecutor(_READERS) as pool:
        try:
            for job in jobs:
                waiting.append((job, pool.submit(read_image, job.image)))
                if len(waiting) > ahead:
                    first, future = waiting.pop(0)
                    yield first, future.exception() or future.result()
            for first, future in waiting:
                yield first, future.exception() or future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _finish(
    batch: Sequence[tuple[_Job, np.ndarray]], predictor: Predictor, threshold: float
) -> Iterator[tuple[_Job, FileRecord]]:
    """Segment and write one batch. If it fails, its images are tried one by one, so that only the guilty fail."""
    try:
        probs = predictor.predict([image for _, image in batch])
    except Exception as error:
        if len(batch) == 1:
            yield batch[0][0], _record(batch[0][0], FAILED, reason=_reason(error))
        else:
            for single in batch:
                yield from _finish([single], predictor, threshold)
        return
    for (job, image), one in zip(batch, probs, strict=True):
        try:
            pixels = _write(job, image, one, threshold)
        except Exception as error:
            yield job, _record(job, FAILED, reason=_reason(error))
        else:
            size = {"height": image.shape[0], "width": image.shape[1]}
            yield job, _record(job, DONE, lesion_pixels=pixels, **size)


def _write(job: _Job, image: np.ndarray, probs: np.ndarray, threshold: float) -> int:
    """Write all results of one image, the mask last; return the number of lesion pixels."""
    mask = probs > threshold
    if "overlays" in job.targets:
        write_png(job.targets["overlays"], draw_overlay(image, mask, probs))
    if "probabilities" in job.targets:
        write_probabilities(job.targets["probabilities"], probs)
    write_mask(job.targets["masks"], mask)
    return int(mask.sum())


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _report(source: Path, settings: dict[str, Any], result: FolderResult, *, finished: bool) -> dict[str, Any]:
    """Content of run.json; `finished` is false while the run goes on, and if it was cut short."""
    return {
        "input": str(source),
        "settings": settings,
        "versions": _versions(),
        "finished": finished,
        "counts": result.counts,
        "files": [record.as_dict() for record in result.files],
    }


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"phnet-monai": __version__, "python": platform.python_version()}
    for package in ("torch", "monai", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _tell(result: FolderResult, *, quiet: bool) -> None:
    """Summary on stdout, failures on stderr."""
    failed = result.with_status(FAILED)
    for record in failed:
        print(f"failed: {record.image}: {record.reason}", file=sys.stderr)
    if quiet:
        return
    done = result.with_status(DONE)
    empty = sum(record.lesion_pixels == 0 for record in done)
    counts = result.counts
    print(
        f"{counts[DONE]} segmented ({empty} without lesion), {counts[SKIPPED]} finished earlier, "
        f"{counts[FAILED]} failed; results in {result.out}"
    )
