"""Which unlabeled images would teach most if somebody outlined them: scores, and a choice without near-duplicates.

Three things are known of every image i of the pool:

* its uncertainty u_i, the mean hardness of the hardest tenth of its patches (`hardness.uncertainty`);
* its disagreement g_i, how differently the network answers to the image and its mirror image (`disagreement`);
* its embedding z_i, the global average of the encoder's deepest features, of length 1.

u and g have scales of their own, so that their places in the pool are averaged, not their values:

    s_i = (w_u place(u_i) + w_g place(g_i)) / (w_u + w_g)

where place, in (0, 1], is the share of the pool that is not above the value, and images are chosen one by one, the
next being

    argmax_i  s_i d_i^w_d,        d_i = min over chosen and outlined j of |z_i - z_j| / r

with r the root-mean-square distance of two images, so that d = 1 is as different as any two. A near-duplicate of a
chosen image has a small d and waits, however hard it is. w_d = 0 is the plain order of the scores, w_u = w_g = 0 the
farthest-first rule of core-sets (Sener and Savarese, 2018), 1/1/1 the default. As long as nothing is chosen or
outlined, d = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phnet_monai.inference.hardness import pixel_hardness

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Weights:
    """How much uncertainty, disagreement (in the mean) and diversity (as an exponent) count; see the module.

    Raises:
        ValueError: a weight that is negative or no finite number.
    """

    uncertainty: float = 1.0
    disagreement: float = 1.0
    diversity: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"the weight of {name} is {value}, expected a number of 0 or more")


@dataclass(frozen=True)
class Ranking:
    """An order of a pool of N images, the most instructive first; arrays are by rank.

    Attributes:
        order: int (N,), index into the pool.
        value: s d^w_d, what the choice went by. Images that are not chosen are valued against all that are.
        distance: d to `nearest`; NaN where there was nothing to be distant from.
        nearest: int (N,), the chosen or outlined image nearest to it when it was its turn: index into the pool, or
            -1 - index into the outlined images; `NOTHING` where there was none.
    """

    order: np.ndarray
    value: np.ndarray
    distance: np.ndarray
    nearest: np.ndarray


NOTHING = np.iinfo(np.int64).min


def disagreement(answers: np.ndarray) -> float:
    """Mean Jensen-Shannon divergence of several answers to one image, in bits.

    Per pixel, the hardness of the mean probability less the mean hardness: 0 where the answers agree, however unsure
    they are, 1 where they are certain of opposite things.

    Args:
        answers: probability of lesion (K >= 2, H, W) in [0, 1], of the image's own orientation.

    Returns:
        mean over all pixels, in [0, 1].

    Raises:
        ValueError: another shape.
    """
    if answers.ndim != 3 or len(answers) < 2 or answers.size == 0:
        raise ValueError(f"expected at least two answers (K, H, W), found {answers.shape}")
    together = float(pixel_hardness(answers.mean(axis=0)).mean(dtype=np.float64))
    return max(0.0, together - float(pixel_hardness(answers).mean(dtype=np.float64)))


def places(values: np.ndarray) -> np.ndarray:
    """Share of the values that are not above each: (N,) -> (N,) in (0, 1]; equal values have equal places."""
    return np.searchsorted(np.sort(values), values, side="right") / max(1, len(values))


def scores(uncertainty: np.ndarray, disagreement: np.ndarray, weights: Weights) -> np.ndarray:
    """s of the module: (N,) uncertainties and (N,) disagreements -> (N,) in (0, 1]; 1 where neither has weight."""
    total = weights.uncertainty + weights.disagreement
    if total == 0:
        return np.ones(len(uncertainty))
    return (weights.uncertainty * places(uncertainty) + weights.disagreement * places(disagreement)) / total


def rank_diverse(
    score: np.ndarray,
    embeddings: np.ndarray,
    count: int,
    *,
    outlined: np.ndarray | None = None,
    diversity: float = 1.0,
) -> Ranking:
    """Choose `count` images one by one (rule: see the module); the others follow by their value against those.

    Memory is that of the embeddings; work is `count` products of the embeddings with a vector.

    Args:
        score: s, (N,), positive.
        embeddings: (N, D).
        count: images to choose; all of them where it is above N.
        outlined: embeddings (L, D) of images that are outlined already: distances count from them, too.
        diversity: w_d.

    Returns:
        all N images. Of equal values the higher score, then the earlier image comes first.

    Raises:
        ValueError: shapes that do not fit, or embeddings that are no finite numbers.
    """
    pool = _finite(embeddings, "embeddings")
    known = _finite(np.zeros((0, pool.shape[1])) if outlined is None else outlined, "outlined")
    if score.shape != (len(pool),) or known.shape[1] != pool.shape[1]:
        raise ValueError(f"found scores {score.shape}, embeddings {pool.shape} and outlined {known.shape}")
    unit = typical_distance(np.concatenate([pool, known])) or 1.0
    nearest, distance = _nearest_known(pool, known)
    distance /= unit
    left = np.ones(len(pool), dtype=bool)
    order: list[int] = []
    steps: list[tuple[float, float, int]] = []
    for _ in range(min(count, len(pool))):
        value = _value(score, distance, diversity)
        best = _first(np.where(left, value, -np.inf), score)
        order.append(best)
        steps.append((value[best], distance[best], nearest[best]))
        left[best] = False
        to_best = np.linalg.norm(pool - pool[best], axis=1) / unit
        closer = to_best < distance
        distance, nearest = np.where(closer, to_best, distance), np.where(closer, best, nearest)
    value = _value(score, distance, diversity)
    rest = np.flatnonzero(left)
    rest = rest[np.lexsort((rest, -score[rest], -value[rest]))]
    values, distances, nears = (np.array([step[part] for step in steps]) for part in range(3))
    distances = np.concatenate([distances.astype(np.float64), distance[rest]])
    return Ranking(
        order=np.concatenate([np.array(order, dtype=np.int64), rest]),
        value=np.concatenate([values.astype(np.float64), value[rest]]),
        distance=np.where(np.isinf(distances), np.nan, distances),
        nearest=np.concatenate([nears.astype(np.int64), nearest[rest]]),
    )


def typical_distance(embeddings: np.ndarray) -> float:
    """Root-mean-square distance of two different rows of (N, D); 0 for less than two rows."""
    count = len(embeddings)
    if count < 2:
        return 0.0
    return float(np.sqrt(2 * embeddings.var(axis=0, dtype=np.float64).sum() * count / (count - 1)))


def _value(score: np.ndarray, distance: np.ndarray, diversity: float) -> np.ndarray:
    return score * np.where(np.isinf(distance), 1.0, distance) ** diversity


def _first(value: np.ndarray, score: np.ndarray) -> int:
    best = np.flatnonzero(value == value.max())
    return int(best[score[best].argmax()])


def _nearest_known(pool: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of the pool, -1 - index of the nearest known row, and the distance; `NOTHING`, inf without any."""
    nearest = np.full(len(pool), NOTHING, dtype=np.int64)
    distance = np.full(len(pool), np.inf)
    if len(known):
        for start in range(0, len(pool), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            product = pool[part] @ known.T
            squared = (pool[part] ** 2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * product
            best = squared.argmin(axis=1)
            nearest[part] = -1 - best
            # the difference itself: the squares above lose small distances to rounding
            distance[part] = np.linalg.norm(pool[part] - known[best], axis=1)
    return nearest, distance


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers (N, D), found {array.shape}")
    return array
