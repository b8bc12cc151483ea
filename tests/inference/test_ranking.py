"""Scores and the diverse choice, on pools whose right order can be written down; the network's part on phantoms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from phnet_monai.data import make_phantom
from phnet_monai.inference import Predictor
from phnet_monai.inference.examiner import Examiner
from phnet_monai.inference.hardness import hardness_grid, pixel_hardness, uncertainty
from phnet_monai.inference.ranking import (
    NOTHING,
    Ranking,
    Weights,
    disagreement,
    places,
    rank_diverse,
    scores,
    typical_distance,
)
from phnet_monai.transforms import fit_image


def on_a_line(*positions: float) -> np.ndarray:
    """Embeddings whose distances are those of the positions."""
    return np.array([[position, 0.0] for position in positions])


def test_disagreement_is_zero_where_answers_agree() -> None:
    answer = np.random.default_rng(0).random((20, 30), dtype=np.float32)
    assert disagreement(np.stack([answer, answer])) == pytest.approx(0, abs=1e-6)
    assert disagreement(np.full((3, 8, 8), 0.5, dtype=np.float32)) == 0  # unsure, but of one mind


def test_disagreement_by_the_formula() -> None:
    opposite = np.zeros((2, 4, 4), dtype=np.float32)
    opposite[0, :2] = 1  # certain of opposite things in half of the pixels
    assert disagreement(opposite) == pytest.approx(0.5)
    pair = np.array([0.2, 0.6], dtype=np.float32)

    def entropy(p: float) -> float:
        return -(p * math.log2(p) + (1 - p) * math.log2(1 - p))

    expected = entropy(0.4) - (entropy(0.2) + entropy(0.6)) / 2
    assert disagreement(pair[:, None, None]) == pytest.approx(expected, abs=1e-6)


def test_places() -> None:
    np.testing.assert_allclose(places(np.array([5.0, 1.0, 5.0, 9.0])), [0.75, 0.25, 0.75, 1.0])
    np.testing.assert_allclose(places(np.full(3, 7.0)), 1)
    assert places(np.zeros(0)).shape == (0,)


def test_scores_average_places_and_not_values() -> None:
    unsure, apart = np.array([0.1, 0.2, 0.9, 0.3]), np.array([1e-5, 4e-5, 2e-5, 3e-5])
    np.testing.assert_allclose(scores(unsure, apart, Weights()), [0.25, 0.75, 0.75, 0.75])
    np.testing.assert_allclose(scores(unsure, apart, Weights(1, 0, 1)), places(unsure))
    np.testing.assert_allclose(scores(unsure, apart, Weights(1, 3, 1)), (places(unsure) + 3 * places(apart)) / 4)
    np.testing.assert_allclose(scores(unsure, apart, Weights(0, 0, 1)), 1)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_impossible_weights(value: float) -> None:
    with pytest.raises(ValueError, match="weight of disagreement"):
        Weights(1, value, 1)


def test_the_hardest_first_then_the_hardest_that_is_different() -> None:
    score = np.array([1.0, 0.95, 0.5, 0.6])
    embeddings = on_a_line(0, 0.1, 10, 4)  # 1 is nearly 0 again
    ranking = rank_diverse(score, embeddings, 3)
    assert ranking.order.tolist() == [0, 2, 3, 1]
    assert ranking.nearest.tolist() == [NOTHING, 0, 0, 0]
    unit = typical_distance(embeddings)
    np.testing.assert_allclose(ranking.distance, np.array([np.nan, 10, 4, 0.1]) / unit, rtol=1e-5)
    np.testing.assert_allclose(ranking.value, [1.0, 5 / unit, 2.4 / unit, 0.095 / unit], rtol=1e-5)


def test_without_diversity_it_is_the_order_of_the_scores() -> None:
    score = np.array([0.2, 0.9, 0.4, 0.9])
    ranking = rank_diverse(score, on_a_line(0, 0, 0, 0), 2, diversity=0)
    assert ranking.order.tolist() == [1, 3, 2, 0]
    np.testing.assert_allclose(ranking.value, [0.9, 0.9, 0.4, 0.2])


def test_with_equal_scores_it_is_farthest_first() -> None:
    ranking = rank_diverse(np.ones(5), on_a_line(0, 1, 2, 7, 10), 5)
    assert ranking.order.tolist() == [0, 4, 3, 2, 1]


def test_distance_counts_from_outlined_images_too() -> None:
    score = np.array([1.0, 0.5])
    embeddings, outlined = on_a_line(0, 5), on_a_line(100, 0.1)
    ranking = rank_diverse(score, embeddings, 1, outlined=outlined)
    assert ranking.order.tolist() == [1, 0]
    assert ranking.nearest.tolist() == [-2, -2]  # the second outlined one
    unit = typical_distance(np.concatenate([embeddings, outlined]))
    np.testing.assert_allclose(ranking.distance, np.array([4.9, 0.1]) / unit, rtol=1e-5)


def test_images_that_are_not_chosen_are_valued_against_all_that_are() -> None:
    score = np.array([1.0, 0.9, 0.8, 0.7])
    ranking = rank_diverse(score, on_a_line(0, 10, 9.5, 5), 2)
    assert ranking.order.tolist() == [0, 1, 3, 2]
    assert ranking.nearest.tolist() == [NOTHING, 0, 0, 1]


def test_copies_come_last_and_in_order() -> None:
    ranking = rank_diverse(np.array([0.5, 1.0, 0.7]), on_a_line(3, 3, 3), 3)
    assert ranking.order.tolist() == [1, 2, 0]
    np.testing.assert_allclose(ranking.value, [1, 0, 0])


def test_more_are_asked_for_than_there_are() -> None:
    assert sorted(rank_diverse(np.ones(3), on_a_line(0, 1, 2), 100).order.tolist()) == [0, 1, 2]
    single = rank_diverse(np.ones(1), on_a_line(4), 1)
    assert (single.order.tolist(), single.nearest.tolist()) == ([0], [NOTHING])


def slow_choice(
    score: np.ndarray, pool: np.ndarray, outlined: np.ndarray, count: int, diversity: float
) -> tuple[list[int], list[float]]:
    """The rule as it is written in the module, without any shortcut."""
    both = np.concatenate([pool, outlined])
    pairs = [math.dist(a, b) ** 2 for i, a in enumerate(both) for j, b in enumerate(both) if i != j]
    unit = math.sqrt(sum(pairs) / len(pairs))
    chosen: list[int] = []
    values = []
    for _ in range(count):

        def value(i: int) -> float:
            there = [*outlined, *pool[chosen]]
            return score[i] * (min(math.dist(pool[i], other) for other in there) / unit) ** diversity

        best = max((i for i in range(len(pool)) if i not in chosen), key=value)
        values.append(value(best))
        chosen.append(best)
    return chosen, values


@pytest.mark.parametrize("diversity", [0.5, 1.0, 3.0])
def test_against_the_rule_as_it_is_written(diversity: float) -> None:
    generator = np.random.default_rng(4)
    pool, outlined = generator.normal(size=(40, 5)), generator.normal(size=(6, 5))
    score = generator.uniform(0.1, 1, 40)
    ranking = rank_diverse(score, pool, 12, outlined=outlined, diversity=diversity)
    order, values = slow_choice(score, pool, outlined, 12, diversity)
    assert ranking.order[:12].tolist() == order
    np.testing.assert_allclose(ranking.value[:12], values, rtol=1e-4)
    assert sorted(ranking.order.tolist()) == list(range(40))


def test_many_outlined_images_in_blocks() -> None:
    generator = np.random.default_rng(5)
    pool, outlined = generator.normal(size=(2500, 3)), generator.normal(size=(50, 3))
    ranking = rank_diverse(np.ones(2500), pool, 1, outlined=outlined)
    assert isinstance(ranking, Ranking)
    for place in (0, 1, 1500, 2499):
        distances = np.linalg.norm(pool[ranking.order[place]] - outlined, axis=1)
        if ranking.nearest[place] < 0:
            assert -1 - ranking.nearest[place] == distances.argmin()


@pytest.mark.parametrize(
    ("score", "embeddings"),
    [(np.ones(3), np.zeros((2, 4))), (np.ones(2), np.full((2, 4), np.nan)), (np.ones(2), np.zeros(2))],
)
def test_pools_that_do_not_fit(score: np.ndarray, embeddings: np.ndarray) -> None:
    with pytest.raises(ValueError, match="found"):
        rank_diverse(score, embeddings, 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained U-Net that is wide enough for its deepest features to differ from 0; input 32."""
    from phnet_monai.networks import PHNet

    torch.manual_seed(0)
    network = PHNet("resnet18", "plain_unet", embedding_size=None, head_channels=4, unet_features=(4, 8, 16, 32, 32))
    with torch.no_grad():  # statistics as if it had been trained: else all images look alike to it
        network.train()
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        network(torch.stack([fit_image(make_phantom((48, 64), seed=n)[0], 32) for n in range(100, 116)]))
    info = {"network": network.arguments, "input": {"size": 32, "pad_value": 0.25}}
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    torch.save({"student": network.state_dict(), "teacher": network.state_dict(), "info": info}, path)
    return path


@pytest.fixture
def examiner(checkpoint: Path) -> Examiner:
    return Examiner(Predictor.from_model(checkpoint, "cpu", batch_size=3))


def phantoms(count: int) -> list[np.ndarray]:
    return [make_phantom((60 + 10 * n, 90), seed=n)[0] for n in range(count)]


def test_an_image_and_its_mirror_image_look_the_same(examiner: Examiner) -> None:
    [image, other] = phantoms(2)
    straight, mirrored, another = examiner.examine([image, np.ascontiguousarray(image[:, ::-1]), other])
    np.testing.assert_allclose(straight.embedding, mirrored.embedding, atol=1e-5)
    assert np.linalg.norm(straight.embedding - another.embedding) > 1e-3
    assert np.linalg.norm(straight.embedding) == pytest.approx(1, abs=1e-5)
    assert straight.disagreement == pytest.approx(mirrored.disagreement, abs=1e-6)


def test_numbers_are_those_of_the_predictor_s_answers(examiner: Examiner) -> None:
    image = np.asarray(make_phantom((32, 32), seed=3)[0])  # of the network's own size: nothing is fitted or padded
    [look] = examiner.examine([image])
    [straight] = examiner.predictor.predict([image])
    [mirrored] = examiner.predictor.predict([np.ascontiguousarray(image[:, ::-1])])
    assert look.uncertainty == pytest.approx(uncertainty(hardness_grid(pixel_hardness(straight))), abs=1e-5)
    assert look.disagreement == pytest.approx(disagreement(np.stack([straight, mirrored[:, ::-1]])), abs=1e-6)


def test_batches_do_not_change_the_numbers(examiner: Examiner) -> None:
    images = phantoms(7)
    together = examiner.examine(images)
    for image, look in zip(images, together, strict=True):
        [alone] = examiner.examine([image])
        assert alone.uncertainty == pytest.approx(look.uncertainty, abs=1e-5)
        np.testing.assert_allclose(alone.embedding, look.embedding, atol=1e-5)


def test_padding_is_no_part_of_the_image(examiner: Examiner, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.full((10, 320), 90, dtype=np.uint8)  # one row of the network's 32
    inside = slice(15, 16)

    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.zeros(len(images), 2, 32, 32)
        logits[:, 0, inside] = 50  # certain in the image, at a loss in the padding
        return logits, torch.ones(len(images), 4)

    monkeypatch.setattr(examiner, "_run", run)
    [look] = examiner.examine([wide])
    assert look.uncertainty == pytest.approx(0, abs=1e-6)


def test_ensembles(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["teacher"] = {n: t * 2 if t.is_floating_point() else t for n, t in content["teacher"].items()}
    same, larger = tmp_path / "same.pt", tmp_path / "larger.pt"
    torch.save(content, same)
    content["info"]["input"]["size"] = 48
    torch.save(content, larger)
    images = phantoms(2)
    alone = Examiner(Predictor.from_model(checkpoint, "cpu")).examine(images)
    for other in (same, larger):
        joint = Examiner(Predictor.from_model([checkpoint, other], "cpu")).examine(images)
        for one, both in zip(alone, joint, strict=True):
            np.testing.assert_allclose(one.embedding, both.embedding, atol=1e-5)  # the first one embeds
            assert one.uncertainty != both.uncertainty


def test_a_network_without_features_is_refused(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="BrightIsLesion: ranking reads the features"):
        Examiner(predictor)


def test_images_of_another_type_are_refused(examiner: Examiner) -> None:
    with pytest.raises(ValueError, match=r"images\[0\]: expected a uint8 array"):
        examiner.examine([np.zeros((4, 4), dtype=np.float32)])
