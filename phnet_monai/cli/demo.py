"""`phnet demo`: the whole way on made-up images, in minutes and without any data."""

from __future__ import annotations


def demo(out: str, *, seed: int = 0) -> int:
    """Make phantom images, train on a few of them, evaluate and segment; a check of the installation.

    Args:
        out: folder for images, checkpoints and results
        seed: for images, weights and sampling
    """
    from phnet_monai.files import check_out

    check_out(out)

    from phnet_monai.demo import format_demo, run_demo

    print(format_demo(run_demo(out, seed=seed)))
    print(f"Masks and overlays: {out}/segmented")
    return 0
