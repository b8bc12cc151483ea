"""Datasets and loaders: cached decoding, seeded weak views, labeled and unlabeled batches side by side."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import Transform
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from phnet_monai.data.datalist import mask_of
from phnet_monai.data.decode import read_image, read_mask
from phnet_monai.data.loader_processes import end_with_parent, process_count
from phnet_monai.distributed import Shard, joined_shard
from phnet_monai.seeds import check_seed
from phnet_monai.transforms.fit import fitted_size, resize
from phnet_monai.transforms.weak_view import WeakView


class DecodeLesion(Transform):
    """Datalist entry -> `image` uint8 (H, W), `label` bool (H, W) if it has one, and its `case_id`, `class`
    and `group_id`.

    Deterministic, so `CacheDataset` keeps its result.

    Args:
        longest: larger images are shrunk to this longest side (training: network size times the largest scale; the
            cache then stays small and views are quick). None keeps the original size (evaluation).
    """

    def __init__(self, longest: int | None = None) -> None:
        self.longest = longest

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        image = read_image(data["image"])
        item: dict[str, Any] = {"case_id": str(data.get("case_id", data["image"]))}
        item |= {name: data[name] for name in ("class", "group_id") if data.get(name) is not None}
        if data.get("label"):
            mask = read_mask(data["label"])
            if mask.shape != image.shape:
                raise ValueError(
                    f"{data['label']}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                    f"{data['image']} has {image.shape[1]} x {image.shape[0]}; they must be the same. "
                    "Mend or remove the pair."
                )
            item["label"] = self._shrink(mask.astype(np.uint8) * 255) >= 128
        item["image"] = self._shrink(image)
        return item

    def _shrink(self, image: np.ndarray) -> np.ndarray:
        if self.longest is None or max(image.shape) <= self.longest:
            return image
        rows, columns = fitted_size(image.shape[0], image.shape[1], self.longest)
        small = resize(torch.from_numpy(image.astype(np.float32))[None, None], rows, columns)
        return small[0, 0].round().clamp(0, 255).byte().numpy()


def training_dataset(
    data: Sequence[dict[str, Any]], size: int, max_scale: float, cache_rate: float = 1.0
) -> CacheDataset:
    """Decoded training images, cached at the largest size that a weak view can ask for."""
    return CacheDataset(
        data=list(data), transform=DecodeLesion(longest=round(size * max_scale)), cache_rate=cache_rate, progress=False
    )


class WeakViewDataset(Dataset):
    """Weak views of a dataset of decoded images; an item is asked for as (index, seed), so it can be repeated."""

    def __init__(self, dataset: Dataset, weak_view: WeakView, labeled: bool) -> None:
        self.dataset, self.weak_view, self.labeled = dataset, weak_view, labeled

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, item: tuple[int, int]) -> dict[str, torch.Tensor]:
        index, seed = item
        data = self.dataset[index]
        if self.labeled and "label" not in data:
            raise ValueError(
                f"{data['case_id']}: a labeled image without a mask; move it to `unlabeled` in the datalist"
            )
        return self.weak_view(data["image"], data["label"] if self.labeled else None, np.random.default_rng(seed))


class EpochSampler(Sampler):
    """Draws of (index, seed) for the batches of an epoch: shuffled passes over the dataset, as many as needed.

    Depends on (seed, epoch) only; `set_epoch` before iterating.

    Args:
        length: of the dataset.
        steps, batch_size: of an epoch.
        shard: of several processes each draws the next `batch_size`, one after the other, so that their batches
            together are those of one process with a larger batch.
    """

    def __init__(self, length: int, steps: int, batch_size: int, seed: int, shard: Shard = Shard()) -> None:  # noqa: B008
        self.length, self.steps, self.batch_size, self.seed, self.shard = length, steps, batch_size, seed, shard
        self.epoch, self.done = 1, 0

    def set_epoch(self, epoch: int, done: int = 0) -> None:
        """The epoch to draw, without its first `done` steps."""
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        return (self.steps - self.done) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        shape = (self.steps, self.shard.world, self.batch_size)
        count = math.prod(shape)
        order = np.concatenate([generator.permutation(self.length) for _ in range(-(-count // self.length))])[:count]
        seeds = generator.integers(0, 2**63 - 1, size=count)
        own = (values.reshape(shape)[self.done :, self.shard.rank].ravel().tolist() for values in (order, seeds))
        yield from zip(*own, strict=True)


class SemiSupervisedLoader:
    """Batches `{"labeled": ..., "unlabeled": ...}` of weak views; an epoch is one pass over the longer list.

    Args:
        labeled, unlabeled: datasets of decoded images; `unlabeled` may be None or empty.
        weak_view: the random view of every image.
        batch_size: labeled images per step; unlabeled_batch_size: unlabeled ones (None: the same).
        use_unlabeled: False leaves the unlabeled batches out but keeps the number of steps (supervised-only runs).
        epoch_length: steps per epoch; None: max(labeled // batch_size, unlabeled // unlabeled_batch_size), at least 1;
            of all processes together, where several have joined (batch sizes are those of each).
        num_workers: loader processes for each list, as far as there are cores; nothing of a training depends on their
            number.

    What is too thin to learn much from is trained on all the same, and logged as a warning: fewer labeled images than
    a batch (it repeats them), no unlabeled image where the method wants some, masks that are all empty or all full.

    Raises:
        ValueError: no labeled image, batch sizes or an epoch length below 1.
    """

    def __init__(
        self,
        labeled: Dataset,
        unlabeled: Dataset | None,
        weak_view: WeakView,
        *,
        batch_size: int = 4,
        unlabeled_batch_size: int | None = None,
        use_unlabeled: bool = True,
        epoch_length: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        unlabeled_batch_size = unlabeled_batch_size or batch_size
        num_workers = process_count(num_workers)
        if batch_size < 1 or unlabeled_batch_size < 1:
            raise ValueError(f"batch sizes are {batch_size} and {unlabeled_batch_size}, expected at least 1")
        if epoch_length is not None and epoch_length < 1:
            raise ValueError(f"epoch_length is {epoch_length}, expected at least 1, or null for one pass")
        count = 0 if unlabeled is None else len(unlabeled)  # type: ignore[arg-type]
        if len(labeled) == 0:  # type: ignore[arg-type]
            raise ValueError("the labeled list of the datalist is empty; prepare it again with more labeled images")
        check_seed(seed)
        self.shard = joined_shard()
        longest = max(len(labeled) // batch_size, count // unlabeled_batch_size) // self.shard.world  # type: ignore[arg-type]
        self.epoch_length = epoch_length or max(1, longest)
        self.labeled = self._loader(labeled, weak_view, True, batch_size, num_workers, 2 * seed)
        self.unlabeled: DataLoader | None = None
        if use_unlabeled and unlabeled is not None and count:
            self.unlabeled = self._loader(unlabeled, weak_view, False, unlabeled_batch_size, num_workers, 2 * seed + 1)
        if self.shard.first:
            for warning in thin_data(labeled, None if not use_unlabeled else count, batch_size):
                logging.getLogger(__name__).warning("phnet: warning: %s", warning)

    def _loader(
        self, dataset: Dataset, weak_view: WeakView, labeled: bool, batch_size: int, num_workers: int, seed: int
    ) -> DataLoader:
        sampler = EpochSampler(len(dataset), self.epoch_length, batch_size, seed, self.shard)  # type: ignore[arg-type]
        return DataLoader(
            WeakViewDataset(dataset, weak_view, labeled),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=end_with_parent,
            # else it draws from torch's own at every epoch, and dropout would depend on the number of processes
            generator=torch.Generator().manual_seed(seed),
            pin_memory=torch.cuda.is_available(),
        )

    def set_epoch(self, epoch: int, done: int = 0) -> None:
        """The epoch that the next iteration gives, without its first `done` steps (a run resumed in the middle)."""
        for loader in (self.labeled, self.unlabeled):
            if loader is not None:
                loader.sampler.set_epoch(epoch, done)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return self.epoch_length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.unlabeled is None:
            for labeled in self.labeled:
                yield {"labeled": labeled}
            return
        for labeled, unlabeled in zip(self.labeled, self.unlabeled, strict=True):
            yield {"labeled": labeled, "unlabeled": unlabeled}


def thin_data(labeled: Dataset, unlabeled: int | None, batch_size: int) -> list[str]:
    """What of the training data is too thin to learn much from, in words.

    Args:
        labeled: decoded images, at least one; no more masks are looked at than it takes to find both classes.
        unlabeled: number of images; None where the method uses none.
        batch_size: labeled images per step.
    """
    count = len(labeled)  # type: ignore[arg-type]
    masks = (labeled[index].get("label") for index in range(count))
    known = [mask for mask in _until_both_classes(masks) if mask is not None]
    found = []
    if count < batch_size:
        found.append(f"{count} labeled images for batches of {batch_size}: a batch repeats them")
    if unlabeled == 0:
        found.append("no unlabeled image: the training learns from the labeled ones only")
    if known and not any(mask.any() for mask in known):
        found.append("no labeled image has a lesion: there is only background to learn")
    if known and all(mask.all() for mask in known):
        found.append("every labeled mask covers its whole image: there is no background to learn")
    return found


def _until_both_classes(masks: Iterable[np.ndarray | None]) -> Iterator[np.ndarray | None]:
    lesion = background = False
    for mask in masks:
        yield mask
        if mask is not None:
            lesion, background = lesion or bool(mask.any()), background or not mask.all()
        if lesion and background:
            return


def as_list(batch: list[Any]) -> list[Any]:
    """Collate function that keeps images of different sizes as a list."""
    return batch


def evaluation_dataset(
    data: Sequence[dict[str, Any]], cache_rate: float = 1.0, skip_unmasked: bool = False
) -> CacheDataset:
    """Decoded images and masks at their original size; hidden masks of unlabeled images count as masks here.

    Args:
        skip_unmasked: leave images without any mask out, such as the truly unlabeled ones of a folder of one's own.

    Raises:
        ValueError: an image without a mask that is not left out.
    """
    data = [{**item, "label": mask_of(item)} for item in data]
    missing = [item["image"] for item in data if not item.get("label")]
    data = [item for item in data if item.get("label")]
    if missing and not skip_unmasked:
        raise ValueError(
            f"{len(missing)} images to evaluate have no mask, e.g. {missing[0]}; give masks or another part"
        )
    return CacheDataset(data=data, transform=DecodeLesion(), cache_rate=cache_rate, progress=False)


def evaluation_loader(dataset: Dataset, *, batch_size: int = 8, num_workers: int = 0) -> DataLoader:
    """Lists of `batch_size` decoded images, in order; of several joined processes each has its share (`Shard.share`).

    Raises:
        ValueError: fewer images than processes, but not none.
    """
    shard = joined_shard()
    count = len(dataset)  # type: ignore[arg-type]
    if shard.world > 1:
        if 0 < count < shard.world:
            raise ValueError(f"{count} images cannot be evaluated by {shard.world} processes; start fewer of them")
        dataset = Subset(dataset, shard.share(range(count)))
    # a generator of its own: a validation must leave the training's random numbers alone
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        collate_fn=as_list,
        num_workers=process_count(num_workers),
        generator=generator,
        worker_init_fn=end_with_parent,
    )
