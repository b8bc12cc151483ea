"""Scans through the network: reading, segmenting and writing at the same time, with bounded memory.

Threads read the next scans and write the results of earlier ones while the network works on the present batch. Frames
of different scans share batches. A scan that cannot be read, segmented or written fails alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phnet_monai.data.scan import Scan, read_scan, scan_kind
from phnet_monai.inference.formats import mask_suffix, write_scan_masks, write_scan_probabilities
from phnet_monai.inference.frames import Frame, FrameSettings, find_lesions
from phnet_monai.inference.hardness import pixel_hardness
from phnet_monai.inference.naming import reason_of
from phnet_monai.inference.overlay import draw_hardness, draw_overlay
from phnet_monai.inference.records import Job, write_record
from phnet_monai.inference.writers import write_png

if TYPE_CHECKING:
    from phnet_monai.inference.predictor import Predictor

READERS, WRITERS = 2, 2
FAILED = "failed"


@dataclass
class _Open:
    """A scan whose frames are under way."""

    job: Job
    scan: Scan
    masks: np.ndarray
    probs: np.ndarray | None
    records: list[dict[str, Any]]
    left: int
    outputs: list[Path] = field(default_factory=list)
    futures: list[Future[None]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    error: BaseException | None = None
    result: dict[str, Any] | None = None

    @classmethod
    def of(cls, job: Job, scan: Scan) -> _Open:
        count = len(scan.frames)
        probs = np.zeros(scan.frames.shape, dtype=np.float32) if "probabilities" in job.kinds else None
        return cls(job, scan, np.zeros(scan.frames.shape, dtype=bool), probs, [{} for _ in range(count)], count)


class Pipeline:
    """Segments scans and writes their results below `out`.

    Args:
        predictor: the model; its batch size is the number of frames that the network sees together. Where memory does
            not suffice, the batch is halved for the rest of the run.
        out: folder of the results.
        settings: how probabilities become masks.
        version: of this program, for DICOM SEG.
    """

    def __init__(self, predictor: Predictor, out: Path, settings: FrameSettings, *, version: str) -> None:
        self.predictor, self.out, self.settings, self.version = predictor, out, settings, version
        self.batch_size = predictor.batch_size
        self.frames = 0

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Job, dict[str, Any]], None, None]:
        """Yield each job, in order, with its record (`records.write_record`) or `{"image", "status", "reason"}`.

        When the caller stops early, results that are being written are completed, all else is dropped.
        """
        under_way: deque[tuple[Job, _Open | BaseException]] = deque()
        batch: list[tuple[_Open, int]] = []
        with ThreadPoolExecutor(WRITERS, thread_name_prefix="write") as pool:
            try:
                for job, scan in _read_ahead(jobs, 2 * self.batch_size):
                    opened = scan if isinstance(scan, BaseException) else _Open.of(job, scan)
                    under_way.append((job, opened))
                    if isinstance(opened, _Open):
                        for index in range(len(opened.records)):
                            batch.append((opened, index))
                            if len(batch) >= self.batch_size:
                                self._segment(batch, pool)
                                batch = []
                    yield from self._collect(under_way, 4 * self.predictor.batch_size)
                self._segment(batch, pool)
                yield from self._collect(under_way, 0)
            finally:
                pool.shutdown(cancel_futures=True)

    def _segment(self, batch: Sequence[tuple[_Open, int]], pool: ThreadPoolExecutor) -> None:
        """Ask the network and hand its answers to the writers. A batch that fails is tried again in smaller parts."""
        if not batch:
            return
        try:
            probs = self.predictor.predict([opened.scan.frames[index] for opened, index in batch])
        except Exception as error:
            if len(batch) == 1:
                opened, index = batch[0]
                opened.futures.append(pool.submit(self._finish, opened, index, error))
                return
            half = (len(batch) + 1) // 2
            if is_out_of_memory(error):
                self.batch_size = half
            self._segment(batch[:half], pool)
            self._segment(batch[half:], pool)
            return
        self.frames += len(batch)
        for (opened, index), one in zip(batch, probs, strict=True):
            opened.futures.append(pool.submit(self._finish, opened, index, one))

    def _collect(
        self, under_way: deque[tuple[Job, _Open | BaseException]], limit: int
    ) -> Iterator[tuple[Job, dict[str, Any]]]:
        """Finished scans from the left, in order; waits while more than `limit` frames are with the writers."""
        while under_way:
            job, opened = under_way[0]
            if isinstance(opened, _Open):
                waiting = sum(len(o.futures) for _, o in under_way if isinstance(o, _Open))
                submitted = len(opened.futures) == len(opened.records)
                if not submitted or (waiting <= limit and not all(f.done() for f in opened.futures)):
                    return
                wait(opened.futures)
            under_way.popleft()
            if isinstance(opened, _Open) and opened.result is not None:
                yield job, opened.result
            else:
                error = opened.error if isinstance(opened, _Open) else opened
                assert error is not None
                yield job, {"image": job.name, "status": FAILED, "reason": reason_of(error, job)}

    def _finish(self, opened: _Open, index: int, answer: np.ndarray | Exception) -> None:
        """In a writer's thread: all of one frame; with the last one, the scan's files and its record."""
        try:
            if isinstance(answer, Exception):
                raise answer
            if opened.error is None:
                self._finish_frame(opened, index, answer)
        except Exception as error:
            opened.error = opened.error or error
        with opened.lock:
            opened.left -= 1
            last = opened.left == 0
        if last:
            try:
                self._close(opened)
            except Exception as error:
                opened.error = opened.error or error
                opened.result = None
            if opened.result is None:  # nothing of a failed scan stays
                for path in opened.outputs:
                    path.unlink(missing_ok=True)

    def _finish_frame(self, opened: _Open, index: int, probs: np.ndarray) -> None:
        image = opened.scan.frames[index]
        frame = find_lesions(image, probs, number=index + 1, spacing=opened.scan.spacing_mm, settings=self.settings)
        opened.masks[index], opened.records[index] = frame.mask, frame.record
        if opened.probs is not None:
            opened.probs[index] = probs
        self._draw(opened, index, image, probs, frame)

    def _draw(self, opened: _Open, index: int, image: np.ndarray, probs: np.ndarray, frame: Frame) -> None:
        """Pictures of a frame: `overlays/KEY.png`; of scans with several frames `frames/KEY/overlays/0001.png`."""
        drawn = {
            "overlays": lambda: draw_overlay(image, frame.mask, probs),
            "hardness": lambda: draw_hardness(image, pixel_hardness(probs)),
        }
        several = len(opened.records) > 1
        for kind, draw in drawn.items():
            if kind in opened.job.kinds:
                below = Path("frames") / opened.job.key / kind / f"{index + 1:04d}.png"
                path = self.out / (below if several else f"{kind}/{opened.job.key}.png")
                with opened.lock:
                    opened.outputs.append(path)
                write_png(path, draw())

    def _close(self, opened: _Open) -> None:
        """Mask file, probability file and, when all is there, the record."""
        if opened.error is not None:
            return
        job, scan = opened.job, opened.scan
        suffix, origin = mask_suffix(scan.kind), {"model": self._model_name(), "version": self.version}
        if opened.probs is not None:
            path = self.out / "probabilities" / f"{job.key}{suffix}"
            opened.outputs.append(path)
            write_scan_probabilities(path, scan, opened.probs, **origin)
        path = self.out / "masks" / f"{job.key}{suffix}"
        opened.outputs.append(path)
        write_scan_masks(path, scan, opened.masks, **origin)
        opened.result = write_record(
            self.out, job, kind=scan.kind, frames=opened.records, outputs=sorted(opened.outputs)
        )

    def _model_name(self) -> str:
        names = self.predictor.settings.get("model", "network")
        return names if isinstance(names, str) else ", ".join(names)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, numpy or a runtime says that memory did not suffice."""
    text = str(error).lower()
    known = ("out of memory", "not enough memory", "can't allocate memory", "failed to allocate", "bad_alloc")
    return isinstance(error, MemoryError) or any(words in text for words in known)


def _read_ahead(jobs: Sequence[Job], ahead: int) -> Iterator[tuple[Job, Scan | BaseException]]:
    """Each job in order with its scan, or with the error of reading it.

    At most `ahead` pictures wait in memory; a stack of frames counts as many, since its size is not known before.
    """
    waiting: deque[tuple[Job, Future[Scan], int]] = deque()
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
        try:
            for job in jobs:
                waiting.append((job, pool.submit(read_scan, job.path), _weight(job.path, ahead)))
                while sum(weight for _, _, weight in waiting) > ahead:
                    first, future, _ = waiting.popleft()
                    yield first, future.exception() or future.result()
            while waiting:
                first, future, _ = waiting.popleft()
                yield first, future.exception() or future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _weight(path: Path, ahead: int) -> int:
    return 1 if scan_kind(path) == "picture" else max(1, ahead // 2)
