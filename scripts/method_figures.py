"""The pictures of docs/method.md: one training step on phantom images, drawn as SVG.

    python scripts/method_figures.py docs/pictures --work runs/method_figures

Trains PH-Net for a few steps on phantoms, from the model that comes with phnet (minutes on one core), and shows what
the functions of a step make of four phantoms. No real image is read. A second call with the same WORK only draws.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.measure import find_contours
from torch import Tensor

from phnet_monai.data import make_phantom, prepare_folder, write_phantoms
from phnet_monai.engines.run import train_run
from phnet_monai.inference.models import default_model
from phnet_monai.inference.report_colours import ramp
from phnet_monai.losses.contrast import sample_index
from phnet_monai.networks import PHNet, embedding_at, load_checkpoint, read_checkpoint
from phnet_monai.transforms import (
    draw_keep_mask,
    expand_patches,
    fit_image,
    hardest_patches,
    mix_patches,
    patch_hardness,
    shielded_patch_count,
)
from phnet_monai.transforms.patches import pixel_entropy

SIZE, GRID, EPOCHS, SHIELD, THRESHOLD = 160, 16, 6, 0.3, 0.9
SHOWN = 0  # which of the four phantoms is shown; the next one is pasted into it
PHANTOMS = (10, 12, 16, 26)  # among forty, of those on which the short training does well
LESION, BACKGROUND, SHIELDED, CUT, INK, PALE = "#d55e00", "#0072b2", "#e69f00", "#56b4e9", "#1f2430", "#d9dce3"
SIDE, GAP, TITLE, NOTE = 190, 16, 44, 34


@dataclass
class Scene:
    """What one step sees and makes of the four phantoms, at the end of the schedule."""

    image: Tensor
    """(4, 1, S, S), the weak views."""
    probs: Tensor
    hardness: Tensor
    shielded: Tensor
    keep: Tensor
    mixed: Tensor
    label: Tensor
    second: Tensor
    """(4, 2, S, S), the teacher's answer to the mixed images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--work", type=Path, default=Path("runs/method_figures"), help="phantoms and checkpoints")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="steps an epoch")
    options = parser.parse_args()
    for path in draw_all(options.out, options.work, epochs=options.epochs, steps=options.steps):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def draw_all(out: Path, work: Path, *, epochs: int, steps: int, images: int = 60) -> list[Path]:
    """All pictures; returns their paths."""
    start, trained = trainings(work, epochs, steps, images)
    scene = make_scene(trained)
    pictures = {
        "step": step_picture(),
        "hardness": hardness_picture(scene),
        "shield": shield_picture(scene),
        "mix": mix_picture(scene),
        "contrast": contrast_picture(scene, start, trained),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (out / f"{name}.svg").write_text(picture, encoding="utf-8")
    return [out / f"{name}.svg" for name in pictures]


def trainings(work: Path, epochs: int, steps: int, images: int) -> tuple[Path, Path]:
    """Checkpoints of PH-Net after its first step and after some more, both from the model that comes with phnet."""
    if not (work / "phantoms").is_dir():
        write_phantoms(work / "phantoms", images, seed=3)
    datalist = prepare_folder(
        work / "phantoms", work / "data", labeled=min(16, images // 2), overwrite=True, progress=False
    )
    common = {"init": default_model(), "profile": "cpu", "method": "phnet", "device": "cpu"}
    runs = {"start": (1, 1), "trained": (epochs, steps)}
    for name, (count, length) in runs.items():
        if not (work / name / "last.pt").is_file():
            size = {"max_epochs": count, "epoch_length": length, "val_interval": count, "progress#always": True}
            train_run(datalist, work / name, **common, overrides=size)
    return work / "start" / "last.pt", work / "trained" / "last.pt"


@torch.inference_mode()
def make_scene(checkpoint: Path) -> Scene:
    teacher = load_checkpoint(checkpoint)[0].eval()
    phantoms = [make_phantom((300, 300), seed=[5, number])[0] for number in PHANTOMS]
    image = torch.stack([fit_image(phantom, SIZE) for phantom in phantoms])
    probs = teacher(image).softmax(dim=1)
    hardness = patch_hardness(probs, GRID)
    shielded = hardest_patches(hardness, shielded_patch_count(EPOCHS, EPOCHS, SHIELD, GRID))
    keep = draw_keep_mask(shielded, (0.3, 0.3), torch.Generator().manual_seed(1))
    mixed, label = mix_patches(image, keep), mix_patches(probs.argmax(dim=1), keep)
    return Scene(image, probs, hardness, shielded, keep, mixed, label, teacher(mixed).softmax(dim=1))


# --- pictures


def hardness_picture(scene: Scene) -> str:
    lesion, entropy = scene.probs[SHOWN, 1].numpy(), pixel_entropy(scene.probs)[SHOWN].numpy()
    sheet = Sheet(columns=2, rows=2, title="From the teacher's answer to the hardness map")
    sheet.panel(0, grey(scene.image[SHOWN]), "weak view", "line: pseudo-label")
    sheet.contour(0, lesion > 0.5, LESION)
    sheet.panel(1, heat(lesion), "probability of lesion", scale=True)
    sheet.panel(2, heat(entropy), "entropy / log C", scale=True)
    sheet.panel(3, heat(scene.hardness[SHOWN].numpy()), f"hardness, {GRID} × {GRID}", scale=True, pixels=True)
    return sheet.text()


def shield_picture(scene: Scene) -> str:
    sheet = Sheet(columns=3, rows=1, title="The shield grows with the epochs")
    for column, epoch in enumerate((2, 4, 6)):
        count = shielded_patch_count(epoch, EPOCHS, SHIELD, GRID)
        sheet.panel(column, grey(scene.image[SHOWN]), f"epoch {epoch} of {EPOCHS}", f"k = {count} of {GRID**2} patches")
        sheet.patches(column, hardest_patches(scene.hardness, count)[SHOWN], SHIELDED)
    return sheet.text()


def mix_picture(scene: Scene) -> str:
    other = (SHOWN + 1) % len(scene.image)
    cut, shown = ~scene.keep[SHOWN], scene.label[SHOWN] > 0
    sure = scene.second.amax(dim=1)[SHOWN]
    sheet = Sheet(columns=3, rows=2, title="Patches of the next image fill the cut ones; shielded patches stay")
    sheet.panel(0, grey(scene.image[SHOWN]), "image x", "orange: shielded, blue: cut")
    sheet.patches(0, cut, CUT)
    sheet.patches(0, scene.shielded[SHOWN], SHIELDED)
    sheet.panel(1, grey(scene.image[other]), "next image", "blue: patches it lends")
    sheet.patches(1, cut, CUT)
    sheet.panel(2, grey(scene.mixed[SHOWN]), "mixed image A(x)", "what the student sees")
    sheet.panel(3, grey(scene.mixed[SHOWN]), "pseudo-label y", "red: lesion")
    sheet.fill(3, shown, LESION)
    sheet.panel(4, heat(sure.numpy() * 2 - 1), "confidence in A(x)", scale=True, ends=("0.5", "1"))
    sheet.panel(5, grey(scene.mixed[SHOWN]), "pixels that count", f"white: below {THRESHOLD}")
    sheet.fill(5, sure < THRESHOLD, "#ffffff", opacity=0.85)
    return sheet.text()


def contrast_picture(scene: Scene, start: Path, trained: Path) -> str:
    reliable = expand_patches(scene.shielded, (SIZE, SIZE)) & (scene.label == scene.second.argmax(dim=1))
    sheet = Sheet(columns=3, rows=1, title="Pixels of hard patches, pulled together by class", extra=30)
    sheet.panel(0, grey(scene.mixed[SHOWN]), "possible anchors", "shielded, answers agree")
    sheet.fill(0, reliable[SHOWN] & (scene.label[SHOWN] == 0), BACKGROUND, opacity=0.55)
    sheet.fill(0, reliable[SHOWN] & (scene.label[SHOWN] > 0), LESION, opacity=0.55)
    for column, (checkpoint, title) in enumerate(((start, "features before"), (trained, "features after")), start=1):
        points = cosines(scene, reliable, checkpoint)
        sheet.scatter(column, points, title)
    return sheet.text()


@torch.inference_mode()
def cosines(scene: Scene, reliable: Tensor, checkpoint: Path) -> dict[str, np.ndarray]:
    """Colour -> (n, 2): cosine of a pixel's feature with the mean feature of background and of lesion."""
    content = read_checkpoint(checkpoint)  # `load_checkpoint` leaves the projector out
    student = PHNet(**content["info"]["network"])
    student.load_state_dict(content["student"])
    _, embedding = student.eval().forward_features(scene.mixed)
    generator = torch.Generator().manual_seed(0)
    features = [
        F.normalize(embedding_at(embedding, sample_index(reliable & (scene.label == c), 150, generator), (SIZE, SIZE)))
        for c in (0, 1)
    ]
    centers = F.normalize(torch.stack([rows.mean(dim=0) for rows in features]))
    return {colour: (rows @ centers.T).numpy() for colour, rows in zip((BACKGROUND, LESION), features, strict=True)}


def step_picture() -> str:
    """The flow of one step, without images."""
    sheet = Flow(width=640, height=384, title="One training step of PH-Net")
    sheet.box(4, 24, 140, 56, "labeled images", "weak view")
    sheet.box(4, 274, 140, 56, "unlabeled images", "weak view")
    sheet.box(296, 24, 160, 66, "student", "gradient steps", "#e3ecfa")
    sheet.box(166, 274, 104, 56, "teacher", "no gradient", "#fdeeda")
    sheet.box(296, 264, 160, 76, "APA: shield, mix", "by hardness")
    sheet.box(296, 150, 160, 56, "mixed images A(x)", "pseudo-labels y")
    sheet.box(484, 10, 148, 54, "cross-entropy", "labels: L_s")
    sheet.box(484, 82, 148, 54, "cross-entropy", "confident pixels: L_u")
    sheet.box(484, 154, 148, 56, "HPC: contrast", "hard patches: L_c")
    sheet.arrow((144, 52), (296, 52))
    sheet.arrow((144, 302), (166, 302))
    sheet.arrow((270, 302), (296, 302))
    sheet.arrow((376, 264), (376, 206))
    sheet.arrow((376, 150), (376, 90))
    sheet.arrow((456, 45), (484, 38))
    sheet.arrow((456, 66), (484, 100))
    sheet.arrow((456, 82), (484, 166))
    sheet.arrow((296, 74), (218, 74), (218, 274), dashed=True)
    sheet.words(210, 170, "EMA of the", "weights", anchor="end")
    sheet.words(283, 232, "probabilities,", "hardness", anchor="middle")
    sheet.arrow((456, 302), (558, 302), (558, 210), dashed=True)
    sheet.words(516, 322, "shielded patches", anchor="middle")
    sheet.words(320, 370, "total loss = L_s + λ_u L_u + λ_c L_c; labeled-only epochs: L_s alone", anchor="middle")
    return sheet.text()


# --- drawing


def grey(image: Tensor) -> bytes:
    """JPEG of an image (1, S, S) in [0, 1]."""
    return _encoded(Image.fromarray((image[0].clamp(0, 1).numpy() * 255).astype(np.uint8)), "JPEG", quality=82)


def heat(values: np.ndarray) -> bytes:
    """PNG of values in [0, 1] in the colours that reports have for hardness."""
    steps = np.linspace(0, 1, 64)
    colours = np.rint(ramp(steps)).astype(np.uint8)
    picture = Image.fromarray(np.rint(np.clip(values, 0, 1) * 63).astype(np.uint8), mode="P")
    picture.putpalette(colours.tobytes())
    return _encoded(picture, "PNG", optimize=True)


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _link(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _text(x: float, y: float, text: str, *, size: int = 14, anchor: str = "start", weight: int = 400) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{INK}">{html.escape(text)}</text>'
    )


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" '
        f'font-family="Helvetica, Arial, sans-serif"><title>{html.escape(title)}</title>'
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#ffffff"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


class Sheet:
    """Square panels in a grid, with a title above and a note below each."""

    def __init__(self, columns: int, rows: int, title: str, *, extra: int = 0) -> None:
        self.columns, self.title = columns, title
        self.parts: list[str] = []
        self.row_height = TITLE - 16 + SIDE + NOTE + extra
        self.width = columns * SIDE + (columns + 1) * GAP
        self.height = rows * self.row_height + GAP

    def corner(self, number: int) -> tuple[float, float]:
        row, column = divmod(number, self.columns)
        return GAP + column * (SIDE + GAP), row * self.row_height + TITLE - 12

    def panel(
        self,
        number: int,
        data: bytes,
        title: str,
        note: str = "",
        *,
        scale: bool = False,
        ends: tuple[str, str] = ("0", "1"),
        pixels: bool = False,
    ) -> None:
        x, y = self.corner(number)
        self.parts.append(_text(x, y - 8, title, weight=600, size=17))
        rendering = ' style="image-rendering:pixelated"' if pixels else ""
        place = f'x="{x:g}" y="{y:g}" width="{SIDE}" height="{SIDE}"'
        self.parts.append(f'<image {place} href="{_link(data)}"{rendering}/>')
        if note:
            self.parts.append(_text(x, y + SIDE + 20, note, size=15))
        if scale:
            self._scale(x, y + SIDE + 7, ends)

    def _scale(self, x: float, y: float, ends: tuple[str, str]) -> None:
        bar = heat(np.linspace(0, 1, 64)[None])
        place = f'x="{x + 32:g}" y="{y:g}" width="{SIDE - 56}" height="11"'
        self.parts.append(f'<image {place} preserveAspectRatio="none" href="{_link(bar)}"/>')
        self.parts.append(_text(x, y + 13, ends[0], size=15))
        self.parts.append(_text(x + SIDE, y + 13, ends[1], size=15, anchor="end"))

    def patches(self, number: int, chosen: Tensor, colour: str) -> None:
        x, y = self.corner(number)
        side = SIDE / chosen.shape[-1]
        squares = "".join(
            f"M{x + column * side:.2f} {y + row * side:.2f}h{side:.2f}v{side:.2f}h-{side:.2f}z"
            for row, column in chosen.nonzero().tolist()
        )
        self.parts.append(f'<path d="{squares}" fill="{colour}" fill-opacity="0.42" stroke="{colour}"/>')

    def contour(self, number: int, mask: np.ndarray, colour: str) -> None:
        self.parts.append(f'<path d="{self._outline(number, mask)}" fill="none" stroke="{colour}" stroke-width="2.2"/>')

    def fill(self, number: int, mask: Tensor, colour: str, *, opacity: float = 0.5) -> None:
        outline = self._outline(number, mask.numpy())
        look = f'fill="{colour}" fill-opacity="{opacity}" fill-rule="evenodd"'
        self.parts.append(f'<path d="{outline}" {look}/>')

    def _outline(self, number: int, mask: np.ndarray) -> str:
        """The mask's border along its pixels."""
        x, y = self.corner(number)
        unit = SIDE / len(mask)
        paths = []
        for line in find_contours(np.pad(mask.astype(float), 1), 0.5):  # pixel 0 is row 1 of the padded mask
            rows, columns = (np.clip(line - 0.5, 0, len(mask)) * unit).T
            points = (f"{x + across:.1f} {y + down:.1f}" for down, across in zip(rows, columns, strict=True))
            paths.append(f"M{'L'.join(points)}z")
        return "".join(paths)

    def scatter(self, number: int, points: dict[str, np.ndarray], title: str) -> None:
        """Cosine with the background's mean (across) and with the lesion's (up), both from 0 to 1."""
        x, y = self.corner(number)
        low = y + SIDE
        self.parts.append(_text(x, y - 8, title, weight=600, size=17))
        self.parts.append(f'<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" fill="none" stroke="{PALE}"/>')
        self.parts.append(f'<path d="M{x} {low}L{x + SIDE} {y}" stroke="{PALE}"/>')
        for colour, rows in points.items():
            dots = "".join(
                f'<circle cx="{x + across * SIDE:.1f}" cy="{low - up * SIDE:.1f}" r="2.4"/>'
                for across, up in np.clip(rows, 0, 1)
            )
            self.parts.append(f'<g fill="{colour}" fill-opacity="0.55">{dots}</g>')
        self.parts.append(_text(x, low + 19, "0", size=15))
        self.parts.append(_text(x + SIDE / 2, low + 19, "→ background", size=15, anchor="middle"))
        self.parts.append(_text(x + SIDE, low + 19, "1", size=15, anchor="end"))
        self.parts.append(_text(x + 6, low - 9, "↑ lesion", size=15))
        for left, colour, word in ((5, BACKGROUND, "background"), (112, LESION, "lesion")):
            self.parts.append(f'<circle cx="{x + left}" cy="{low + 39}" r="5" fill="{colour}"/>')
            self.parts.append(_text(x + left + 10, low + 44, word, size=15))

    def text(self) -> str:
        return _svg(self.width, self.height, self.title, self.parts)


class Flow:
    """Boxes and arrows."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        head = f'<path d="M0 0L9 4.5L0 9z" fill="{INK}"/>'
        marker = f'<marker id="a" markerWidth="9" markerHeight="9" refX="8" refY="4.5" orient="auto">{head}</marker>'
        self.parts = [f"<defs>{marker}</defs>"]

    def box(
        self, x: float, y: float, width: float, height: float, first: str, second: str, fill: str = "#f4f5f8"
    ) -> None:
        place = f'x="{x}" y="{y}" width="{width}" height="{height}"'
        self.parts.append(f'<rect {place} rx="6" fill="{fill}" stroke="#8a90a0"/>')
        middle = x + width / 2
        self.parts.append(_text(middle, y + height / 2 - 3, first, weight=600, anchor="middle", size=15))
        self.parts.append(_text(middle, y + height / 2 + 16, second, anchor="middle", size=14))

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        line = "L".join(f"{x:g} {y:g}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<path d="M{line}" fill="none" stroke="{INK}" stroke-width="1.4" marker-end="url(#a)"{dashes}/>'
        )

    def words(self, x: float, y: float, *lines: str, anchor: str) -> None:
        for number, line in enumerate(lines):
            self.parts.append(_text(x, y + 17 * number, line, anchor=anchor, size=14))

    def text(self) -> str:
        return _svg(self.width, self.height, self.title, self.parts)


if __name__ == "__main__":
    main()
