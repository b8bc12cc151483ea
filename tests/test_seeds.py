"""Seeds that every generator takes, and others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phnet_monai.data import write_phantoms
from phnet_monai.seeds import MAX_SEED, check_seed


def test_seeds_that_all_generators_take() -> None:
    assert [check_seed(seed) for seed in (0, 7, MAX_SEED)] == [0, 7, MAX_SEED]


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 0.5, True, "1"])
def test_others_are_refused_by_name(seed: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed is .*, expected a whole number from 0 to 4294967295"):
        check_seed(seed)
    with pytest.raises(ValueError, match="seed is"):
        write_phantoms(tmp_path / "phantoms", 2, seed=seed)
    assert not (tmp_path / "phantoms").exists()
