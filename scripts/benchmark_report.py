"""Size of `report.html` and time of headless Chromium with it, for many frames.

    python scripts/benchmark_report.py --frames 1000

The frames are phantoms with their own masks; needs selenium (extra `dev`) and Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phnet_monai.data import make_phantom
from phnet_monai.inference.frames import FrameSettings, find_lesions
from phnet_monai.inference.report import write_report

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)
STEPS = {
    "sort by area": "document.querySelector('.data [data-column=area_px]').click()",
    "sort by name": "document.querySelector('.data [data-column=name]').click()",
    "filter to one kind": "document.querySelector('[data-filter=lesion]').click()",
    "show all again": "document.querySelector(\"[data-filter='']\").click()",
    "hardness on all cards": "document.querySelector('.bar [data-layer=hardness]').click()",
}
MEASURE = """
const done = arguments[0], begun = performance.now();
STEP;
requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun), 0));
"""


def records(count: int) -> Iterator[dict[str, Any]]:
    """Records of `infer` for phantoms; their masks stand for the network's answer."""
    for number in range(count):
        image, mask = make_phantom((384, 512), seed=number)
        probs = (mask * 0.9 + 0.05).astype("float32")
        frame = find_lesions(image, probs, number=1, spacing=(0.1, 0.1), settings=FrameSettings()).record
        outputs = {f"masks/{number:05d}.png": 1}
        yield {"image": f"phantom {number:05d}.png", "status": "done", "outputs": outputs, "frames": [frame]}


def browse(page: Path) -> dict[str, float]:
    """Milliseconds until the page is loaded, and of each step until the next picture."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in FLAGS:
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        try:
            driver.get(page.as_uri())
            loaded = driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
            return {
                "load": loaded,
                **{n: driver.execute_async_script(MEASURE.replace("STEP", step)) for n, step in STEPS.items()},
            }
        finally:
            driver.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    args = parser.parse_args()
    made = list(records(args.frames))
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "report.html"
        begun = time.perf_counter()
        write_report(page, made, title=f"{args.frames} phantoms", settings={"settings": asdict(FrameSettings())})
        print(f"{args.frames} frames: {page.stat().st_size / 1e6:.1f} MB, {time.perf_counter() - begun:.1f} s to write")
        for name, milliseconds in browse(page).items():
            print(f"  {name:<24}{milliseconds:8.0f} ms")


if __name__ == "__main__":
    main()
