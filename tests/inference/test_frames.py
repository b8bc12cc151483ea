"""What is told of one frame."""

from __future__ import annotations

import numpy as np
import pytest

from phnet_monai.data import make_phantom
from phnet_monai.inference.frames import FrameSettings, find_lesions
from phnet_monai.inference.report_items import record_items

RECORD = {"image": "a.png", "status": "done", "outputs": {}}


@pytest.mark.parametrize(("grey", "blank"), [(0, True), (60, True), (None, False)])
def test_a_frame_that_shows_nothing_is_marked(grey: int | None, blank: bool) -> None:
    image, mask = make_phantom((96, 128), seed=0)
    if grey is not None:
        image = np.full_like(image, grey)
    frame = find_lesions(image, mask * np.float32(0.9), number=1, spacing=None, settings=FrameSettings())
    assert frame.record["blank"] is blank
    assert np.array_equal(frame.mask, mask)  # the answer itself is left as it is
    (item,) = record_items({**RECORD, "frames": [frame.record]})
    assert (item["pill"], item["alert"], "blank" in item["tags"]) == (
        ("blank image", True, True) if blank else ("1 lesion", False, False)
    )
