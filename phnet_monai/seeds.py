"""Seeds of trainings and phantoms: what every generator here takes."""

from __future__ import annotations

MAX_SEED = 2**32 - 1


def check_seed(seed: int) -> int:
    """`seed`, if numpy, torch and what is derived from it for epochs and processes can take it.

    Raises:
        ValueError: not a whole number from 0 to `MAX_SEED`.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed!r}, expected a whole number from 0 to {MAX_SEED}")
    return seed
