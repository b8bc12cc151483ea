"""Datasets and loaders: what is decoded, which images a step sees, and that a seed repeats it."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phnet_monai.data.loaders import (
    DecodeLesion,
    EpochSampler,
    SemiSupervisedLoader,
    WeakViewDataset,
    evaluation_dataset,
    evaluation_loader,
    training_dataset,
)
from phnet_monai.device import core_count
from phnet_monai.distributed import Shard
from phnet_monai.transforms import WeakView

SIZE = 16


def greys(first: int, count: int) -> list[dict]:
    """Decoded images that tell their number by their grey; odd ones are larger. The mask is the upper half."""
    items = []
    for number in range(first, first + count):
        shape = (20, 24) if number % 2 else (18, 13)
        mask = np.zeros(shape, dtype=bool)
        mask[: shape[0] // 2] = True
        items.append({"image": np.full(shape, number, dtype=np.uint8), "label": mask, "case_id": str(number)})
    return items


def numbers(batch: dict[str, torch.Tensor]) -> list[int]:
    """Numbers of the images in a batch, read off a pixel that is not padding."""
    return [round(float(image[0][valid][0]) * 255) for image, valid in zip(batch["image"], batch["valid"], strict=True)]


def make(labeled: int = 4, unlabeled: int | None = 12, **arguments) -> SemiSupervisedLoader:
    unlabeled_items = None if unlabeled is None else greys(100, unlabeled)
    return SemiSupervisedLoader(
        greys(1, labeled),  # type: ignore[arg-type]
        unlabeled_items,  # type: ignore[arg-type]
        WeakView(SIZE, pad_value=0.9),
        **{"batch_size": 4, **arguments},
    )


def epoch(loader: SemiSupervisedLoader, number: int = 1) -> list[dict]:
    loader.set_epoch(number)
    return list(loader)


def flat(batches: list[dict], part: str) -> list[int]:
    return [number for batch in batches for number in numbers(batch[part])]


def same(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a[part][name], b[part][name])
        for a, b in zip(first, second, strict=True)
        for part in a
        for name in a[part]
    )


# what a step sees


def test_a_batch():
    batch = epoch(make(unlabeled_batch_size=3))[0]
    assert set(batch) == {"labeled", "unlabeled"}
    shapes = {part: {name: tuple(t.shape) for name, t in batch[part].items()} for part in batch}
    assert shapes == {
        "labeled": {"image": (4, 1, SIZE, SIZE), "label": (4, SIZE, SIZE), "valid": (4, SIZE, SIZE)},
        "unlabeled": {"image": (3, 1, SIZE, SIZE), "valid": (3, SIZE, SIZE)},  # masks are not handed out
    }


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "batch", "unlabeled_batch", "steps"),
    [
        (4, 12, 4, None, 3),  # the longer list is the unlabeled one
        (12, 4, 4, None, 3),
        (5, 14, 4, None, 3),  # an incomplete batch is left out
        (6, 12, 2, 6, 3),
        (2, 3, 4, None, 1),  # both shorter than a batch
        (8, 0, 4, None, 2),
        (8, None, 4, None, 2),
    ],
)
def test_an_epoch_is_one_pass_over_the_longer_list(labeled, unlabeled, batch, unlabeled_batch, steps):
    loader = make(labeled, unlabeled, batch_size=batch, unlabeled_batch_size=unlabeled_batch)
    batches = epoch(loader)
    assert len(loader) == loader.epoch_length == len(batches) == steps
    assert all(len(step["labeled"]["image"]) == batch for step in batches)
    assert all(("unlabeled" in step) is bool(unlabeled) for step in batches)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_every_unlabeled_image_comes_once_an_epoch(number):
    assert sorted(flat(epoch(make(), number), "unlabeled")) == list(range(100, 112))


def test_the_shorter_list_is_repeated_evenly():
    seen = flat(epoch(make(labeled=5, unlabeled=12)), "labeled")  # 12 draws of 5 images
    counts = [seen.count(number) for number in range(1, 6)]
    assert sorted(counts) == [2, 2, 2, 3, 3]
    assert sorted(seen[:5]) == sorted(seen[5:10]) == [1, 2, 3, 4, 5]  # whole passes


def test_repeated_images_get_new_views():
    batches = epoch(make(labeled=1, unlabeled=12, batch_size=1, unlabeled_batch_size=1))
    views = torch.stack([batch["labeled"]["valid"][0] for batch in batches])
    assert len(torch.unique(views.flatten(1), dim=0)) > 3


def test_the_order_is_shuffled_anew_every_epoch():
    loader = make()
    orders = [flat(epoch(loader, number), "unlabeled") for number in (1, 2, 3)]
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_supervised_only_keeps_the_number_of_steps_and_the_labeled_views():
    with_unlabeled, without = make(), make(use_unlabeled=False)
    assert len(without) == len(with_unlabeled) == 3
    first, second = epoch(with_unlabeled), epoch(without)
    assert all(set(batch) == {"labeled"} for batch in second)
    assert same([{"labeled": batch["labeled"]} for batch in first], second)


@pytest.mark.parametrize("length", [1, 7])
def test_the_epoch_length_can_be_given(length):
    loader = make(epoch_length=length)
    batches = epoch(loader)
    assert len(batches) == len(loader) == length
    assert len(flat(batches, "unlabeled")) == 4 * length


# repeatability


def test_seed_and_epoch_decide_alone():
    first, again = make(seed=3), make(seed=3)
    expected = epoch(first, 2)
    torch.rand(9)
    np.random.rand(9)
    epoch(again, 1)
    assert same(expected, epoch(again, 2))  # whatever epochs came before
    assert same(expected, epoch(first, 2))
    assert not same(expected, epoch(again, 3))
    assert not same(expected, epoch(make(seed=4), 2))


def test_labeled_and_unlabeled_images_are_drawn_independently():
    items = greys(1, 12)
    loader = SemiSupervisedLoader(items, items, WeakView(SIZE), batch_size=4)  # type: ignore[arg-type]
    batches = epoch(loader)
    assert flat(batches, "labeled") != flat(batches, "unlabeled")


def test_views_do_not_depend_on_the_number_of_workers():
    alone, worker = make(seed=5), make(seed=5, num_workers=1)
    for number in (1, 2):  # the worker persists
        assert same(epoch(alone, number), epoch(worker, number))


def test_there_are_no_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch):
    """torch would warn of them, with a path of its own and no advice."""
    monkeypatch.setattr("phnet_monai.data.loader_processes.core_count", lambda: 1)
    loader = make(num_workers=4)
    assert loader.unlabeled is not None
    assert loader.labeled.num_workers == loader.unlabeled.num_workers == 1
    assert make(num_workers=0).labeled.num_workers == 0


def test_the_sampler():
    sampler = EpochSampler(5, 4, 3, seed=0)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 12
    assert drawn == list(sampler)
    assert all(type(index) is int and type(seed) is int for index, seed in drawn)  # survives any worker
    assert len({seed for _, seed in drawn}) == 12
    sampler.set_epoch(2)
    assert drawn != list(sampler)
    sampler.set_epoch(1, done=3)
    assert list(sampler) == drawn[9:]
    assert len(sampler) == 3


def test_the_batches_of_several_processes_are_those_of_one():
    whole = list(EpochSampler(5, 4, 6, seed=0))
    parts = [EpochSampler(5, 4, 2, seed=0, shard=Shard(rank, 3)) for rank in range(3)]
    for part in parts:
        part.set_epoch(1, done=1)
    shares = [list(part) for part in parts]
    for step in range(3):
        together = [draw for share in shares for draw in share[2 * step : 2 * step + 2]]
        assert together == whole[6 * (step + 1) : 6 * (step + 2)]


# errors


def test_no_labeled_image():
    with pytest.raises(ValueError, match="labeled list of the datalist is empty"):
        make(labeled=0)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"unlabeled_batch_size": -1}])
def test_batch_sizes_below_one(arguments):
    with pytest.raises(ValueError, match="expected at least 1"):
        make(**arguments)


def test_a_labeled_image_without_a_mask_is_named():
    items = greys(1, 1)
    del items[0]["label"]
    with pytest.raises(ValueError, match="1: a labeled image without a mask; move it to `unlabeled`"):
        WeakViewDataset(items, WeakView(SIZE), labeled=True)[0, 0]  # type: ignore[arg-type]
    assert "label" not in WeakViewDataset(items, WeakView(SIZE), labeled=False)[0, 0]  # type: ignore[arg-type]


# what is too thin to learn much from


def masked(fill: bool) -> list[dict]:
    return [{**item, "label": np.full_like(item["label"], fill)} for item in greys(1, 6)]


@pytest.mark.parametrize(
    ("labeled", "arguments", "told"),
    [
        (greys(1, 6), {}, []),
        (greys(1, 4), {}, []),
        (greys(1, 3), {}, ["3 labeled images for batches of 4: a batch repeats them"]),
        (greys(1, 6), {"unlabeled": []}, ["no unlabeled image"]),
        (greys(1, 6), {"unlabeled": None}, ["no unlabeled image"]),
        (greys(1, 6), {"unlabeled": [], "use_unlabeled": False}, []),
        (masked(False), {}, ["no labeled image has a lesion"]),
        (masked(True), {}, ["every labeled mask covers its whole image"]),
        ([*masked(False), *greys(7, 1)], {}, []),
        ([*masked(True), *greys(7, 1)], {}, []),
        ([*masked(True), *masked(False)], {}, []),
        (masked(False)[:1], {"unlabeled": []}, ["1 labeled images", "no unlabeled image", "has a lesion"]),
    ],
)
def test_what_is_too_thin_is_told(labeled, arguments, told, caplog):
    with caplog.at_level(logging.WARNING):
        values = {"unlabeled": greys(100, 8), "batch_size": 4, **arguments}
        SemiSupervisedLoader(labeled, values.pop("unlabeled"), WeakView(SIZE), **values)
    assert len(caplog.messages) == len(told)
    assert all(part in message for part, message in zip(told, caplog.messages, strict=True))


def test_no_more_masks_are_read_than_needed():
    read = []

    class Counted(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    SemiSupervisedLoader(Counted(greys(1, 6)), None, WeakView(SIZE), use_unlabeled=False)
    assert read == [0]


# decoding


def write(folder: Path, name: str, values: np.ndarray) -> str:
    Image.fromarray(values).save(folder / name)
    return str(folder / name)


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, str]:
    image = np.random.default_rng(0).integers(0, 256, (30, 50), dtype=np.uint8)
    mask = np.zeros((30, 50), dtype=np.uint8)
    mask[5:20, 10:45] = 255
    return {
        "image": write(tmp_path, "a.png", image),
        "label": write(tmp_path, "a_mask.png", mask),
        "case_id": "a",
        "class": "benign",
        "group_id": "g",
    }


def test_an_entry_is_decoded(entry):
    item = DecodeLesion()(entry)
    assert set(item) == {"image", "label", "case_id", "class", "group_id"}
    assert (item["image"].dtype, item["image"].shape) == (np.uint8, (30, 50))
    np.testing.assert_array_equal(item["image"], np.asarray(Image.open(entry["image"])))
    assert item["label"].dtype == bool
    assert item["label"].sum() == 15 * 35
    assert (item["case_id"], item["class"]) == ("a", "benign")


def test_hidden_masks_are_not_read(entry):
    item = DecodeLesion()({"image": entry["image"], "hidden_label": "/nowhere/at/all.png"})
    assert set(item) == {"image", "case_id"}
    assert item["case_id"] == entry["image"]


@pytest.mark.parametrize(("longest", "shape"), [(25, (15, 25)), (50, (30, 50)), (80, (30, 50))])
def test_large_images_are_shrunk_and_small_ones_left(entry, longest, shape):
    item, whole = DecodeLesion(longest)(entry), DecodeLesion()(entry)
    assert item["image"].shape == item["label"].shape == shape
    assert item["image"].dtype == np.uint8
    assert item["image"].mean() == pytest.approx(whole["image"].mean(), abs=1.5)
    assert item["label"].mean() == pytest.approx(whole["label"].mean(), abs=0.03)


def test_a_mask_of_another_size_is_refused(entry, tmp_path):
    entry["label"] = write(tmp_path, "b_mask.png", np.zeros((50, 30), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"b_mask.png: the mask has 30 x 50 pixels, its image .*a.png has 50 x 30"):
        DecodeLesion()(entry)


def test_the_training_dataset_keeps_what_it_decoded(entry, monkeypatch):
    import phnet_monai.data.loaders as loaders

    dataset = training_dataset([entry], size=10, max_scale=2.0)
    monkeypatch.setattr(loaders, "read_image", lambda path: pytest.fail("decoded again"))
    assert dataset[0]["image"].shape == (12, 20)  # 10 pixels times the largest scale
    assert dataset[0]["image"] is dataset[0]["image"]


def test_an_empty_unlabeled_dataset_is_allowed(entry):
    labeled, unlabeled = training_dataset([entry], 10, 2.0), training_dataset([], 10, 2.0)
    loader = SemiSupervisedLoader(labeled, unlabeled, WeakView(10), batch_size=2)
    assert [set(batch) for batch in loader] == [{"labeled"}]


def test_evaluation_keeps_size_and_order(entry, tmp_path):
    other = {**entry, "image": write(tmp_path, "b.png", np.zeros((9, 7), np.uint8)), "case_id": "b"}
    other["label"] = write(tmp_path, "b_mask.png", np.zeros((9, 7), np.uint8))
    batches = list(evaluation_loader(evaluation_dataset([entry, other, entry]), batch_size=2))
    assert [[item["case_id"] for item in batch] for batch in batches] == [["a", "b"], ["a"]]
    assert [item["image"].shape for item in batches[0]] == [(30, 50), (9, 7)]


def test_an_evaluation_draws_no_random_number(entry):
    before = torch.get_rng_state()
    list(evaluation_loader(evaluation_dataset([entry])))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_without_masks_is_refused(entry):
    without = {"image": entry["image"]}
    with pytest.raises(ValueError, match=r"1 images to evaluate have no mask, e\.g\. .*a\.png"):
        evaluation_dataset([entry, without])
    assert len(evaluation_dataset([entry, without], skip_unmasked=True)) == 1
    assert len(evaluation_dataset([without], skip_unmasked=True)) == 0


ENDLESS = """
import signal
import numpy as np
import torch.utils.data._utils.worker
torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL = 1e6  # torch would look for the parent every 5 seconds
from phnet_monai.data.loaders import SemiSupervisedLoader
from phnet_monai.transforms import WeakView

item = {"image": np.zeros((600, 600), np.uint8), "label": np.eye(600, dtype=bool), "case_id": "x"}
loader = SemiSupervisedLoader([item] * 64, None, WeakView(500), num_workers=2, use_unlabeled=False)
iterator = iter(loader.labeled)
next(iterator)
print(*(worker.pid for worker in iterator._workers), flush=True)
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_loader_processes_end_with_a_training_that_is_killed():
    """They would wait for ever to hand on what they have loaded."""
    process = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) == min(2, core_count())
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 120  # of a broken test only: nothing else would end them
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(alive(worker) for worker in workers)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_several_processes_share_images_to_evaluate_or_have_none(monkeypatch):
    monkeypatch.setattr("phnet_monai.data.loaders.joined_shard", lambda: Shard(1, 3))
    items = [{"image": number} for number in range(5)]
    assert [item["image"] for batch in evaluation_loader(items) for item in batch] == [1, 4]
    assert list(evaluation_loader([])) == []
    with pytest.raises(ValueError, match="2 images cannot be evaluated by 3 processes"):
        evaluation_loader(items[:2])
