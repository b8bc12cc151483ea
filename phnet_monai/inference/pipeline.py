"""Scans through the network: reading, segmenting and writing at the same time, with bounded memory.

Threads read the next scans and write the results of earlier ones while the network works on the present batch. Frames
of different scans share batches. A scan that cannot be read, segmented or written fails alone; a full disk ends all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phnet_monai.data.decode import IMAGE_SUFFIXES, NoImageError
from phnet_monai.data.scan import Scan, read_scan
from phnet_monai.device import core_count
from phnet_monai.files import disk_error
from phnet_monai.inference.batches import answer_all, is_out_of_memory, read_ahead
from phnet_monai.inference.formats import mask_suffix, write_scan_masks, write_scan_probabilities
from phnet_monai.inference.frames import Frame, FrameSettings, find_lesions
from phnet_monai.inference.hardness import pixel_hardness
from phnet_monai.inference.naming import reason_of
from phnet_monai.inference.overlay import draw_hardness, draw_overlay
from phnet_monai.inference.records import FAILED, PASSED_OVER, Job, Mark, discard, source_mark, write_record
from phnet_monai.inference.writers import write_jpeg

if TYPE_CHECKING:
    from phnet_monai.inference.predictor import Predictor

WRITERS = max(1, min(2, core_count() - 1))
"""On two cores a second writer would share them with the network and a reader: a sixth fewer frames per second."""

_Read = tuple[Mark, Scan]
_Frames = list[tuple["_Open", int]]
_Answered = tuple[int, list[Future[None]], _Frames]
"""How many frames of a batch the network has answered, what the writers make of them, and for which frames memory did
not suffice beside other batches."""


@dataclass
class _Open:
    """A scan whose frames are under way."""

    job: Job
    scan: Scan
    mark: Mark
    masks: np.ndarray
    probs: np.ndarray | None
    records: list[dict[str, Any]]
    left: int
    begun: bool = False
    outputs: list[Path] = field(default_factory=list)
    futures: list[Future[None]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    error: BaseException | None = None
    result: dict[str, Any] | None = None

    @classmethod
    def of(cls, job: Job, found: _Read | BaseException) -> _Open | BaseException:
        """With memory for its results; an error where the scan could not be read or there is not enough."""
        if isinstance(found, BaseException):
            return found
        mark, scan = found
        count = len(scan.frames)
        try:
            probs = np.zeros(scan.frames.shape, dtype=np.float32) if "probabilities" in job.kinds else None
            masks = np.zeros(scan.frames.shape, dtype=bool)
        except MemoryError as error:
            return error
        return cls(job, scan, mark, masks, probs, [{} for _ in range(count)], count)


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
        from phnet_monai.inference.cores import NetworkThreads  # loads torch

        self.predictor, self.out, self.settings, self.version = predictor, out, settings, version
        self.network = NetworkThreads(predictor)
        self.batch_size = predictor.batch_size
        self.frames = 0
        self.asking: set[Future[_Answered]] = set()
        self.short: _Frames = []
        self.writing: set[Future[None]] = set()
        self.full: OSError | None = None

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Job, dict[str, Any]], None, None]:
        """Yield each job, in order, with its record (`records.write_record`), or `{"image", "status", "reason"}` where
        it failed or holds no image.

        When the caller stops early, results that are being written are completed, all else is dropped.

        Raises:
            OSError: the disk is full or read-only (`files.DISK_ERRORS`): no later scan could be written either.
        """
        under_way: deque[tuple[Job, _Open | BaseException]] = deque()
        batch: _Frames = []
        limit, ahead = 4 * self.predictor.batch_size, 2 * self.predictor.batch_size
        reading = closing(read_ahead(jobs, _read, ahead=ahead, weight=lambda job: _weight(job, ahead)))
        with reading as scans, ThreadPoolExecutor(WRITERS, thread_name_prefix="write") as pool:
            try:
                with self.network:
                    for job, found in scans:
                        opened = _Open.of(job, found)
                        under_way.append((job, opened))
                        if isinstance(opened, _Open):
                            for index in range(len(opened.records)):
                                batch.append((opened, index))
                                if len(batch) >= self.batch_size:
                                    self._segment(batch, pool)
                                    batch = []
                                    self._hold_back(limit)
                        if _behind(under_way) > limit + self.network.lanes * self.batch_size:
                            self._answered(0, pool)  # the oldest batch is slow: what is done must not pile up behind it
                        yield from self._collect(under_way, limit)
                    self._segment(batch, pool)
                    self._answered(0, pool)
                yield from self._collect(under_way, 0)
            finally:
                pool.shutdown(cancel_futures=True)

    def _segment(self, batch: _Frames, pool: ThreadPoolExecutor) -> None:
        """Have a batch segmented and written, as soon as the network has room for it."""
        self._check_disk()
        self._answered(self.network.lanes - 1, pool)
        self._submit(batch, pool)

    def _submit(self, batch: _Frames, pool: ThreadPoolExecutor) -> None:
        alone = not self.asking and self.network.lanes == 1
        self.asking.add(self.network.submit(lambda: self._answer(batch, pool, alone), len(batch)))

    def _answered(self, limit: int, pool: ThreadPoolExecutor) -> None:
        """Wait until the network has at most `limit` batches before it. Frames for which memory did not suffice beside
        other batches are asked for again when these are done."""
        while True:
            done = {future for future in self.asking if future.done()}
            self.asking -= done
            for future in done:
                answered, writing, short = future.result()
                self.frames += answered
                self.writing.update(writing)
                self.short += short
            if self.short and not self.asking:
                self.network.one_at_a_time()
                again, self.short = self.short, []
                self._submit(again, pool)
            elif len(self.asking) <= limit and not self.short:
                return
            else:
                wait(self.asking, return_when=FIRST_COMPLETED)

    def _answer(self, batch: _Frames, pool: ThreadPoolExecutor, alone: bool) -> _Answered:
        """Ask the network and hand its answers to the writers. A batch that fails is tried again in smaller parts."""
        answers = answer_all(self._ask, batch, on_shortage=self._shrink)
        writing, short, answered = [], [], 0
        for (opened, index), answer in zip(batch, answers, strict=True):
            if not alone and isinstance(answer, Exception) and is_out_of_memory(answer):
                short.append((opened, index))
                continue
            answered += not isinstance(answer, Exception)
            writing.append(pool.submit(self._finish, opened, index, answer))
            opened.futures.append(writing[-1])
        return answered, writing, short

    def _check_disk(self) -> None:
        if self.full is not None:
            raise self.full

    def _ask(self, batch: Sequence[tuple[_Open, int]]) -> list[np.ndarray]:
        return self.predictor.predict([opened.scan.frames[index] for opened, index in batch])

    def _shrink(self, size: int) -> None:
        self.batch_size = min(self.batch_size, size)

    def _hold_back(self, limit: int) -> None:
        """Wait until at most `limit` frames are with the writers: frames of a long clip must not pile up."""
        self.writing = {future for future in self.writing if not future.done()}
        while len(self.writing) > limit:
            self.writing = wait(self.writing, return_when=FIRST_COMPLETED).not_done

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
            self._check_disk()
            under_way.popleft()
            if isinstance(opened, _Open) and opened.result is not None:
                yield job, opened.result
            else:
                error = opened.error if isinstance(opened, _Open) else opened
                assert error is not None
                for earlier in (job.record_file(self.out), *job.replaces):  # of a file that cannot be segmented now
                    self._discard(earlier)
                status = PASSED_OVER if isinstance(error, NoImageError) else FAILED
                yield job, {"image": job.name, "status": status, "reason": reason_of(error, job)}

    def _finish(self, opened: _Open, index: int, answer: np.ndarray | Exception) -> None:
        """In a writer's thread: all of one frame; with the last one, the scan's files and its record."""
        try:
            self._begin(opened)
            if isinstance(answer, Exception):
                raise answer
            if opened.error is None:
                self._finish_frame(opened, index, answer)
        except Exception as error:
            self._failed(opened, error)
        with opened.lock:
            opened.left -= 1
            last = opened.left == 0
        if last:
            try:
                self._close(opened)
            except Exception as error:
                self._failed(opened, error)
                opened.result = None
            if opened.result is None:  # nothing of a failed scan stays
                for path in opened.outputs:
                    path.unlink(missing_ok=True)

    def _begin(self, opened: _Open) -> None:
        """Before the first result: what an earlier run made of the scan goes, since old and new would be mixed. Not
        earlier, or a run that is cut short would have removed what it never came to."""
        with opened.lock:
            if not opened.begun:
                opened.begun = True
                discard(self.out, opened.job.record_file(self.out))

    def _discard(self, record_file: Path) -> None:
        """`records.discard`; results that may not be removed are no reason to stop, a full or read-only disk is."""
        try:
            discard(self.out, record_file)
        except OSError as error:
            self.full = disk_error(error)
            self._check_disk()

    def _failed(self, opened: _Open, error: Exception) -> None:
        opened.error = opened.error or error
        self.full = self.full or disk_error(error)

    def _finish_frame(self, opened: _Open, index: int, probs: np.ndarray) -> None:
        image = opened.scan.frames[index]
        frame = find_lesions(image, probs, number=index + 1, spacing=opened.scan.spacing_mm, settings=self.settings)
        opened.masks[index], opened.records[index] = frame.mask, frame.record
        if opened.probs is not None:
            opened.probs[index] = probs
        self._draw(opened, index, image, probs, frame)

    def _draw(self, opened: _Open, index: int, image: np.ndarray, probs: np.ndarray, frame: Frame) -> None:
        """Pictures of a frame: `overlays/KEY.jpg`; of scans with several frames `frames/KEY/overlays/0001.jpg`."""
        drawn = {
            "overlays": lambda: draw_overlay(image, frame.mask, probs),
            "hardness": lambda: draw_hardness(image, pixel_hardness(probs)),
        }
        several = len(opened.records) > 1
        for kind, draw in drawn.items():
            if kind in opened.job.kinds:
                below = Path("frames") / opened.job.key / kind / f"{index + 1:04d}.jpg"
                path = self.out / (below if several else f"{kind}/{opened.job.key}.jpg")
                with opened.lock:
                    opened.outputs.append(path)
                write_jpeg(path, draw())

    def _close(self, opened: _Open) -> None:
        """Mask file, probability file and, when all is there, the record."""
        if opened.error is not None:
            return
        job, scan = opened.job, opened.scan
        if source_mark(job.path) != opened.mark:
            raise ValueError(f"{job.path} changed while it was segmented; run again")
        suffix, origin = mask_suffix(scan.kind), {"model": self._model_name(), "version": self.version}
        if opened.probs is not None:
            path = self.out / "probabilities" / f"{job.key}{suffix}"
            opened.outputs.append(path)
            write_scan_probabilities(path, scan, opened.probs, **origin)
        path = self.out / "masks" / f"{job.key}{suffix}"
        opened.outputs.append(path)
        write_scan_masks(path, scan, opened.masks, **origin)
        opened.result = write_record(
            self.out,
            job,
            mark=opened.mark,
            kind=scan.kind,
            frames=opened.records,
            outputs=sorted(opened.outputs),
            other_modality=scan.other_modality,
        )
        for earlier in job.replaces:
            discard(self.out, earlier)

    def _model_name(self) -> str:
        names = self.predictor.settings.get("model", "network")
        return names if isinstance(names, str) else ", ".join(names)


def _behind(under_way: Sequence[tuple[Job, _Open | BaseException]]) -> int:
    """Frames of scans that are read whole and not the oldest ones: done or not, they stay until that is."""
    return sum(len(opened.records) for _, opened in list(under_way)[1:-1] if isinstance(opened, _Open))


def _read(job: Job) -> _Read:
    mark = source_mark(job.path)
    return mark, read_scan(job.path)


def _weight(job: Job, ahead: int) -> int:
    """1 for a picture; a stack of frames counts as many, since its size is not known before it is read."""
    return 1 if job.path.name.lower().endswith(IMAGE_SUFFIXES) else max(1, ahead // 2)
