"""How many cores of the CPU the network gets, beside those that read and write."""

from __future__ import annotations

from typing import Any

import torch

HEAVY = 0.1
"""Seconds of one core that a frame takes in the network, several times what its reading, measuring and writing take."""


class CoreShare:
    """Inside, a network on the CPU leaves one core to readers and writers from its second batch on: threads that wait
    for a core they share with them hold up the whole batch (a third more frames per second on two cores). A network so
    large that readers and writers wait for it keeps all cores. The first batch has no results beside it to be written.

    Args:
        device: of the network; where it is not the CPU nothing is changed.
    """

    def __init__(self, device: Any) -> None:
        self.shared = str(device) == "cpu"

    def __enter__(self) -> CoreShare:
        self.all = torch.get_num_threads()
        return self

    def note(self, frames: int, seconds: float) -> None:
        """After each batch: how long the network took for it."""
        if self.shared and frames:
            heavy = seconds * torch.get_num_threads() / frames > HEAVY
            torch.set_num_threads(self.all if heavy else max(1, self.all - 1))

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.all)
