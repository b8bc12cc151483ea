"""A folder of unlabeled pictures -> the order in which to outline them, with a start for the annotation tool."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from phnet_monai.data.decode import read_image
from phnet_monai.files import terminal_text
from phnet_monai.inference.annotations import Format, Proposal, export_proposals
from phnet_monai.inference.batches import answer_all, read_ahead
from phnet_monai.inference.contact_sheet import write_contact_sheet
from phnet_monai.inference.examiner import Examined, Examiner
from phnet_monai.inference.files import result_keys
from phnet_monai.inference.rank_inputs import Pool, check_rank_out
from phnet_monai.inference.ranking import NOTHING, Weights, rank_diverse, scores
from phnet_monai.inference.ranking_table import RankedImage, write_ranking
from phnet_monai.inference.records import NOTHING_TO_DO, SOME_FAILED


@dataclass(frozen=True)
class RankResult:
    """What became of a pool: all images by rank, and (name, reason) of those that could not be read."""

    out: Path
    images: list[RankedImage] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 all well, 3 some files failed, 4 there was no image to rank."""
        if self.failed:
            return SOME_FAILED
        return 0 if self.images else NOTHING_TO_DO


def rank_pool(
    pool: Pool,
    out: str | Path,
    examiner: Examiner,
    *,
    count: int,
    weights: Weights | None = None,
    export: Format | None = None,
    threshold: float = 0.5,
    overwrite: bool = False,
    quiet: bool = False,
) -> RankResult:
    """Rank the images of a pool and write `ranking.csv`, `ranking.json`, contact sheets and, if asked for, proposals.

    Args:
        pool: what to choose from, and what is outlined already (`rank_inputs.find_pool`).
        out: folder for the results; made where it is missing.
        examiner: the model.
        count: images to choose.
        weights: how much uncertainty, disagreement and diversity count; all alike where not given.
        export: write the chosen images with the model's outlines to `out`/labelme or `out`/coco.
        threshold: a pixel is inside the outlines above this probability, in (0, 1).
        overwrite: replace an earlier ranking in `out`. Exported outlines are never replaced.
        quiet: no progress bar and no summary; failures are still listed on stderr.

    Raises:
        ValueError: impossible numbers.
        FileExistsError, NotADirectoryError: `out` holds an earlier ranking or exported outlines, or is a file.
    """
    weights = weights or Weights()
    if count < 1 or not 0 < threshold < 1:
        raise ValueError(f"expected a count of at least 1 and a threshold in (0, 1), found {count} and {threshold}")
    out = check_rank_out(out, export=export, overwrite=overwrite)
    failed = list(pool.unreadable)
    found = examine_files(pool.candidates, examiner, failed, what="images", quiet=quiet)
    known = examine_files(pool.outlined, examiner, failed, what="outlined images", quiet=quiet) if found else {}
    if not found:
        return _told(RankResult(out, failed=failed), pool, quiet=quiet)
    images = rank_examined(found, known, count=count, weights=weights)
    chosen = [line.image for line in images if line.chosen]
    if export is not None:
        export_proposals(out / export, _proposals(chosen, pool, examiner, threshold), export)
    answers = zip(chosen, _answers(chosen, pool, examiner, threshold), strict=True)
    write_contact_sheet(out, ((f"{rank}  {name}", *pair) for rank, (name, pair) in enumerate(answers, start=1)))
    settings = {
        "count": count,
        "weights": asdict(weights),
        "threshold": threshold,
        "export": export,
        "outlined": len(known),
        **examiner.predictor.settings,
    }
    write_ranking(out, images, settings, failed)
    return _told(RankResult(out, images, failed), pool, quiet=quiet)


def examine_files(
    files: Mapping[str, Path],
    examiner: Examiner,
    failed: list[tuple[str, str]],
    *,
    what: str = "images",
    quiet: bool = True,
) -> dict[str, Examined]:
    """Examine all files that can be read, by name; the others are added to `failed` with the reason."""
    found: dict[str, Examined] = {}
    batch: list[tuple[str, np.ndarray]] = []
    bar = tqdm(total=len(files), desc=what, unit="image", disable=True if quiet else None, file=sys.stderr)
    ahead = 2 * examiner.predictor.batch_size
    with bar, closing(read_ahead(files.items(), lambda file: read_image(file[1]), ahead=ahead)) as images:
        for left, ((name, _), image) in zip(range(len(files), 0, -1), images, strict=True):
            if isinstance(image, BaseException):
                failed.append((name, _reason(image)))
            else:
                batch.append((name, image))
            if len(batch) == examiner.predictor.batch_size or left == 1:
                looks = answer_all(lambda part: examiner.examine([pixels for _, pixels in part]), batch)
                for (done, _), look in zip(batch, looks, strict=True):
                    if isinstance(look, Examined):
                        found[done] = look
                    else:
                        failed.append((done, _reason(look)))
                batch = []
            bar.update()
    return found


def rank_examined(
    found: Mapping[str, Examined], known: Mapping[str, Examined], *, count: int, weights: Weights
) -> list[RankedImage]:
    """Rank examined images by name; `known` are those that are outlined already. At least one is in `found`."""
    names, outlined = list(found), list(known)
    score = scores(
        np.array([look.uncertainty for look in found.values()]),
        np.array([look.disagreement for look in found.values()]),
        weights,
    )
    ranking = rank_diverse(
        score,
        np.stack([look.embedding for look in found.values()]),
        count,
        outlined=np.stack([look.embedding for look in known.values()]) if known else None,
        diversity=weights.diversity,
    )

    def line(place: int, index: int) -> RankedImage:
        near = int(ranking.nearest[place])
        name = None if near == NOTHING else names[near] if near >= 0 else outlined[-1 - near]
        return RankedImage(
            rank=place + 1,
            image=names[index],
            chosen=place < count,
            value=float(ranking.value[place]),
            score=float(score[index]),
            uncertainty=found[names[index]].uncertainty,
            disagreement=found[names[index]].disagreement,
            distance=None if name is None else float(ranking.distance[place]),
            nearest=name,
        )

    return [line(place, int(index)) for place, index in enumerate(ranking.order)]


def _answers(
    names: Sequence[str], pool: Pool, examiner: Examiner, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Image uint8 (H, W) and mask bool (H, W) of each name."""
    for name in names:
        image = read_image(pool.candidates[name])
        [probs] = examiner.predictor.predict([image])
        yield image, probs > threshold


def _proposals(names: Sequence[str], pool: Pool, examiner: Examiner, threshold: float) -> Iterator[Proposal]:
    keys = result_keys([Path(name) for name in names])
    for name, (_, mask) in zip(names, _answers(names, pool, examiner, threshold), strict=True):
        key = keys[Path(name)]
        # x.png and x.jpg of one folder become x.png.png and x.jpg.jpg: labelme's x.json would be that of both
        yield Proposal(pool.candidates[name], key.with_name(key.name + Path(name).suffix), mask)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _told(result: RankResult, pool: Pool, *, quiet: bool) -> RankResult:
    """Summary on stdout, failures on stderr."""
    for name, reason in result.failed:
        print(terminal_text(f"failed: {name}: {reason}"), file=sys.stderr)
    if not quiet:
        chosen = sum(line.chosen for line in result.images)
        parts = [f"{len(result.images)} ranked, {chosen} chosen, {len(result.failed)} failed"]
        if pool.passed_over:
            parts.append(f"{pool.passed_over} left out (outlined, or for validation and test)")
        if pool.unread:
            parts.append(f"{pool.unread} are no pictures (NIfTI, DICOM) and were left out")
        if pool.masks:
            parts.append(f"{pool.masks} masks of pictures passed over")
        print("; ".join([*parts, f"results in {result.out}"]))
    return result
