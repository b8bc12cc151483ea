"""Run the bundle by MONAI Deploy's own operator, in an application of its SDK, and compare the masks.

    python -m monai.bundle ckpt_export ... --filepath model.ts   (docs/serving.md)
    PYTHON_WITH_DEPLOY scripts/check_deploy.py model.ts

MONAI Deploy's App SDK brings libraries for CUDA, so it gets an environment of its own (docs/serving.md); no GPU is
needed for this. A source hands phantom images to `MonaiBundleInferenceOperator`, which knows nothing but the
TorchScript file, and a sink compares its masks with those of `Predictor` for the model that ships.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import numpy as np

try:
    from monai.deploy.conditions import CountCondition
    from monai.deploy.core import AppContext, Application, Fragment, Image, IOType, Operator, OperatorSpec
    from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}; run this by the Python of an environment with monai-deploy-app-sdk") from error

from phnet_monai.data import make_phantom
from phnet_monai.inference import Predictor
from phnet_monai.inference.models import default_model

SIZES = ((120, 180), (301, 200), (90, 77))
ALLOWED = 1e-4
"""Share of pixels in which two runtimes may differ where a probability is next to 0.5."""


class Source(Operator):
    """Emits the next picture, columns first, as `Image`."""

    def __init__(self, fragment: Fragment, pictures: list[np.ndarray], **named: Any) -> None:
        self.pictures = iter(pictures)
        super().__init__(fragment, CountCondition(fragment, len(pictures)), **named)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        op_output.emit(Image(next(self.pictures).T.copy()), "image")


class Sink(Operator):
    """Keeps what arrives, rows first."""

    def __init__(self, fragment: Fragment, **named: Any) -> None:
        self.masks: list[np.ndarray] = []
        super().__init__(fragment, **named)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("pred")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        self.masks.append(np.asarray(op_input.receive("pred").asnumpy()).T)


class App(Application):
    """Source, the operator, sink."""

    def __init__(self, model: Path, pictures: list[np.ndarray]) -> None:
        self.model, self.pictures = model, pictures
        super().__init__()

    def compose(self) -> None:
        source = Source(self, self.pictures, name="source")
        operator = MonaiBundleInferenceOperator(
            self,
            app_context=AppContext({}),
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            bundle_path=self.model,
            name="bundle",
        )
        self.sink = Sink(self, name="sink")
        self.add_flow(source, operator, {("image", "image")})
        self.add_flow(operator, self.sink, {("pred", "pred")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="TorchScript file of `monai.bundle ckpt_export`")
    arguments = parser.parse_args()
    pictures = [make_phantom(size, seed=number)[0] for number, size in enumerate(SIZES)]
    app = App(arguments.model, pictures)
    app.run()
    predictor = Predictor.from_model(default_model(), "cpu", channels_last=False)
    expected = [probs > 0.5 for probs in predictor.predict(pictures)]
    found = app.sink.masks
    assert len(found) == len(expected), f"{len(found)} masks of {len(expected)} pictures"
    for mask, other in zip(found, expected, strict=True):
        assert mask.shape == other.shape, (mask.shape, other.shape)
        assert (mask.astype(bool) != other).mean() < ALLOWED
    lesion = sum(int(mask.sum()) for mask in expected)
    assert lesion
    print(f"ok: masks of {len(found)} pictures ({lesion} lesion pixels) are those of Predictor")


if __name__ == "__main__":
    main()
