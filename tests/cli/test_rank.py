"""`phnet rank` from the command line to the files, and `phnet prepare` on what it exported."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from phnet_monai.cli.main import main
from phnet_monai.data import load_part, make_phantom, read_image, read_mask
from phnet_monai.inference import Predictor
from phnet_monai.networks import PHNet
from phnet_monai.transforms import fit_image


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    network = PHNet("resnet18", "plain_unet", embedding_size=None, head_channels=4, unet_features=(4, 8, 16, 32, 32))
    with torch.no_grad():  # statistics as if it had been trained: else all images look alike to it
        network.train()
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        network(torch.stack([fit_image(make_phantom((48, 64), seed=n)[0], 32) for n in range(100, 116)]))
    info = {"network": network.arguments, "input": {"size": 32, "pad_value": 0.33}}
    path = tmp_path_factory.mktemp("model") / "1e3,#.pt"
    torch.save({"student": network.state_dict(), "info": info}, path)
    return str(path)


NAMES = ["2024.png", "a b/=1,#.png", "a b/Größe.bmp", "a b/Größe.png", "None.jpg", "x.png"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "ma#sk 2024,None"
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_phantom((48, 64), seed=number)[0]).save(folder / name)
    return folder


def table(out: Path) -> list[dict[str, str]]:
    with (out / "ranking.csv").open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def content(out: Path) -> dict[str, Any]:
    return json.loads((out / "ranking.json").read_text())


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def median(model: str, images: Path) -> float:
    """A threshold that makes about half of the pixels lesion."""
    probs = Predictor.from_model(model, "cpu").predict([read_image(images / name) for name in NAMES])
    return round(float(np.median(np.concatenate([one.ravel() for one in probs]))), 5)


def test_ranking_of_awkward_names(model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "1e3"
    assert main(["rank", str(images), str(out), "--model", model, "--count=4", "--device", "cpu"]) == 0
    assert tree(out) == ["contact_sheet.png", "ranking.csv", "ranking.json"]
    rows = table(out)
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["chosen"] for row in rows] == ["1"] * 4 + ["0"] * 2
    assert sorted(row["image"] for row in rows) == sorted(NAMES)  # none begins like a formula: folders stand first
    assert (rows[0]["nearest"], rows[0]["distance"]) == ("", "")
    before = {row["image"] for row in rows[:4]}
    assert all(row["nearest"] in before and float(row["distance"]) > 0 for row in rows[1:])
    assert all(0 < float(row["score"]) <= 1 and 0 <= float(row["uncertainty"]) <= 1 for row in rows)
    exact = content(out)
    assert [line["image"] for line in exact["images"]] == [row["image"] for row in rows]
    assert exact["settings"]["model"] == "1e3,#.pt"
    assert exact["settings"]["weights"] == {"uncertainty": 1, "disagreement": 1, "diversity": 1}
    assert "6 ranked, 4 chosen, 0 failed" in capsys.readouterr().out
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.size == (8 + 4 * 264, 8 + 286)


def test_copies_are_asked_for_last(model: str, images: Path, tmp_path: Path) -> None:
    picture = np.asarray(make_phantom((48, 64), seed=0)[0])
    Image.fromarray(picture).save(images / "copy.png")
    Image.fromarray(np.ascontiguousarray(picture[:, ::-1])).save(images / "mirrored.bmp")
    assert main(["rank", str(images), str(tmp_path / "o"), "-m", model, "-c", "6", "--device=cpu", "--quiet"]) == 0
    rows = table(tmp_path / "o")
    of_one = [row["image"] in ("2024.png", "copy.png", "mirrored.bmp") for row in rows]
    assert sum(of_one[:6]) == 1
    assert of_one[6:] == [True, True]
    assert all(float(row["distance"]) < 1e-3 for row in rows[6:])


def test_weights(model: str, images: Path, tmp_path: Path) -> None:
    words = ["rank", str(images), str(tmp_path / "o"), "--model", model, "--device=cpu", "--quiet"]
    assert main([*words, "--weights", "1,0,0"]) == 0
    unsure = [float(row["uncertainty"]) for row in table(tmp_path / "o")]
    assert unsure == sorted(unsure, reverse=True)
    assert main([*words, "--weights=0,1,0", "--overwrite"]) == 0
    apart = [float(row["disagreement"]) for row in table(tmp_path / "o")]
    assert apart == sorted(apart, reverse=True)


@pytest.mark.parametrize("tool", ["labelme", "coco"])
def test_exported_outlines_come_back_as_masks(
    tool: str, model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, threshold = tmp_path / "o", median(model, images)
    words = ["rank", str(images), str(out), "--model", model, "--count=6", "--export", tool, "--device=cpu"]
    assert main([*words, f"--threshold={threshold}", "--quiet"]) == 0
    exported = {Path(name).as_posix() for name in tree(out / tool) if not name.endswith(".json")}
    below = "" if tool == "labelme" else "images/"
    # two images of one stem would share labelme's file
    copies = {name: name for name in NAMES} | {
        "a b/Größe.bmp": "a b/Größe.bmp.bmp",
        "a b/Größe.png": "a b/Größe.png.png",
    }
    assert exported == {below + copy for copy in copies.values()}
    for name, copy in copies.items():
        assert (out / tool / (below + copy)).read_bytes() == (images / name).read_bytes()

    data = tmp_path / "data"
    words = ["prepare", "folder", str(out / tool), str(data), "--labeled=1.0", "--protocol=paper", "--quiet"]
    assert main(words) == 0
    error = capsys.readouterr().err
    assert "6 images have the outlines that the model proposed, unchanged" in error
    entries = [entry for part in ("labeled", "validation", "test") for entry in load_part(data, part)]
    assert len(entries) == 6
    predictor = Predictor.from_model(model, "cpu")
    for entry in entries:
        image = read_image(entry["image"])
        expected = predictor.predict([image])[0] > threshold
        found = read_mask(entry["label"])
        assert Path(entry["label"]).is_relative_to(data.resolve() / "labels")
        assert (found != expected).mean() < 0.1  # simplified by half a pixel, on ragged masks of an untrained network


def test_corrected_outlines_are_what_counts(model: str, images: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "o", tmp_path / "data"
    words = ["rank", str(images), str(out), "--model", model, "--count=6", "--export=labelme", "--device=cpu"]
    assert main([*words, "--quiet"]) == 0
    files = sorted((out / "labelme").rglob("*.json"))
    corrected = json.loads(files[0].read_text())
    corners = [[10, 5], [30, 5], [30, 25], [10, 25]]
    corrected["shapes"] = [{"label": "lesion", "points": corners, "shape_type": "polygon"}]
    for file in files[1:]:
        file.write_text(json.dumps({**json.loads(file.read_text()), "shapes": []}))
    files[0].write_text(json.dumps(corrected))
    (out / "labelme" / "x.json").unlink()  # nobody got to this one
    words = ["prepare", "folder", str(out / "labelme"), str(data), "--labeled=1.0", "--protocol=paper", "--quiet"]
    assert main(words) == 0
    assert [Path(entry["image"]).name for entry in load_part(data, "unlabeled")] == ["x.png"]
    entries = [entry for part in ("labeled", "validation", "test") for entry in load_part(data, part)]
    areas = {Path(entry["image"]).stem: int(read_mask(entry["label"]).sum()) for entry in entries}
    assert areas.pop(files[0].stem) == 400
    assert set(areas.values()) == {0}


def test_an_exported_program_is_refused_by_name(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", model, str(tmp_path / "m.ts"), "--to", "torchscript"]) == 0
    assert main(["rank", str(images), str(tmp_path / "out"), "--model", str(tmp_path / "m.ts"), "--device", "cpu"]) == 2
    assert "phnet: m.ts: ranking reads the features of the encoder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_exported_outlines_are_never_replaced(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    words = ["rank", str(images), str(out), "--model", model, "--count=2", "--device=cpu", "--quiet"]
    assert main([*words, "--export=labelme"]) == 0
    before = {name: (out / name).read_bytes() for name in tree(out)}
    assert main(words) == 2
    assert "earlier ranking" in capsys.readouterr().err
    assert main([*words, "--export=labelme", "--overwrite"]) == 2
    assert "corrected" in capsys.readouterr().err
    assert {name: (out / name).read_bytes() for name in tree(out)} == before
    assert main([*words, "--export=coco", "--overwrite"]) == 0
    assert {name for name in tree(out) if name.startswith("labelme/")} == {
        n for n in before if n.startswith("labelme/")
    }


def test_images_that_are_outlined_are_neither_asked_for_nor_repeated(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rank", str(images), str(tmp_path / "o"), "--model", model, "--count=1", "--device=cpu"]
    outlined = images / "a b"
    assert main([*words, "--labeled", str(outlined)]) == 0
    rows = table(tmp_path / "o")
    assert sorted(row["image"] for row in rows) == ["2024.png", "None.jpg", "x.png"]
    assert rows[0]["nearest"].startswith(str(outlined))
    assert content(tmp_path / "o")["settings"]["outlined"] == 3
    assert "3 left out (outlined" in capsys.readouterr().out


def test_a_datalist_tells_what_is_outlined(model: str, tmp_path: Path) -> None:
    from phnet_monai.data import prepare_folder, write_phantoms

    data = write_phantoms(tmp_path / "data", 20, size_range=(40, 60))
    bare = sorted((data / "masks").iterdir())[:6]
    for mask in bare:
        mask.unlink()
    datalist = prepare_folder(data, tmp_path / "list", labeled=4, protocol="paper", progress=False)
    words = ["rank", str(data / "images"), str(tmp_path / "o"), "--model", model, "--device=cpu", "--quiet"]
    assert main([*words, "--labeled", str(datalist)]) == 0
    ranked = {line["image"] for line in content(tmp_path / "o")["images"]}
    assert ranked == {mask.name for mask in bare}  # those with a hidden outline need none
    held_out = len(load_part(datalist, "validation")) + len(load_part(datalist, "test"))
    assert content(tmp_path / "o")["settings"]["outlined"] == 14 - held_out
    assert main([*words[:2], str(tmp_path / "o2"), *words[3:], "--labeled", str(datalist.parent)]) == 0
    assert table(tmp_path / "o2") == table(tmp_path / "o")


def test_what_was_exported_and_outlined_is_not_asked_for_again(model: str, tmp_path: Path) -> None:
    """The export holds copies of the images; some of them are in the validation and test part."""
    from phnet_monai.data import prepare_folder, write_phantoms

    data = write_phantoms(tmp_path / "data", 12, size_range=(40, 60))
    words = ["--model", model, "--device=cpu", "--quiet"]
    out = str(tmp_path / "first")
    assert main(["rank", str(data / "images"), out, *words, "--count", "8", "--export", "labelme"]) == 0
    datalist = prepare_folder(tmp_path / "first" / "labelme", tmp_path / "list", labeled=4, progress=False)
    chosen = {path.name for path in (tmp_path / "first" / "labelme").rglob("*.png")}
    assert len(chosen) == 8
    for number, labeled in enumerate((datalist, tmp_path / "first" / "labelme")):
        out = tmp_path / f"again{number}"
        assert main(["rank", str(data / "images"), str(out), *words, "--labeled", str(labeled)]) == 0
        ranked = {line["image"] for line in content(out)["images"]}
        assert ranked == {path.name for path in (data / "images").iterdir()} - chosen


def test_masks_are_no_pictures_to_choose_from(model: str, tmp_path: Path) -> None:
    from phnet_monai.data import write_phantoms

    data = write_phantoms(tmp_path / "data", 4, size_range=(40, 60))
    assert main(["rank", str(data), str(tmp_path / "o"), "--model", model, "--device=cpu", "--quiet"]) == 0
    assert {line["image"] for line in content(tmp_path / "o")["images"]} == {
        path.name for path in (data / "images").iterdir()
    }


def test_bad_files_do_not_stop_the_others(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "bad.png").write_bytes(b"no image")
    (images / "half.png").write_bytes((images / "x.png").read_bytes()[:200])
    (images / "scan.dcm").write_bytes(b"\0" * 128 + b"DICM")
    words = ["rank", str(images), str(tmp_path / "o"), "--model", model, "--batch-size=2", "--device=cpu"]
    assert main(words) == 3
    captured = capsys.readouterr()
    failed = [line.split(": ")[1] for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert failed == ["bad.png", "half.png"]
    assert "1 are no pictures" in captured.out
    assert len(table(tmp_path / "o")) == 6
    assert [entry["image"] for entry in content(tmp_path / "o")["failed"]] == ["bad.png", "half.png"]


def test_nothing_but_bad_files(model: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    assert main(["rank", str(tmp_path / "in"), str(tmp_path / "o"), "--model", model, "--device=cpu"]) == 3
    assert not (tmp_path / "o").exists()


def test_nothing_to_do(model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rank", str(images), str(tmp_path / "o"), "--model", model, "--labeled", str(images)]
    assert main(words) == 4
    assert "6 pictures are outlined already" in capsys.readouterr().err
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / "a.nii.gz").write_bytes(b"not read")
    assert main(["rank", str(tmp_path / "volumes"), str(tmp_path / "o"), "--model", model]) == 4
    assert "annotation tools do not open its 1 NIfTI or DICOM files: convert them to PNG" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{in}/nope", "{out}", "--model", "{model}"], "no such file or folder"),
        (["{in}", "{out}", "--model", "{in}/nope.pt"], "no such model"),
        (["{in}", "{in}/out", "--model", "{model}"], "lies in the input folder"),
        (["{in}", "{model}", "--model", "{model}"], "is a file"),
        (["{in}", "{out}", "--model", "{model}", "--count", "0"], "--count"),
        (["{in}", "{out}", "--model", "{model}", "--weights", "1,2"], "--weights must be three numbers"),
        (["{in}", "{out}", "--model", "{model}", "--weights", "1,2,-1"], "--weights must be three numbers"),
        (["{in}", "{out}", "--model", "{model}", "--threshold", "1"], "--threshold"),
        (["{in}", "{out}", "--model", "{model}", "--batch-size", "0"], "--batch-size"),
        (["{in}", "{out}", "--model", "{model}", "--export", "cvat"], "labelme"),
        (["{in}", "{out}", "--model", "{model}", "--labeled", "{in}/nope"], "no such datalist or folder"),
        (["{in}", "{out}", "--model", "{model}", "--labeled", "{in}/x.png"], "is no JSON"),
        (["{in}", "{out}", "--model", "{in}/x.png"], "x.png"),
    ],
)
def test_mistakes(
    words: list[str], message: str, model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"{in}": str(images), "{out}": str(tmp_path / "o"), "{model}": model}
    for mark, name in names.items():
        words = [word.replace(mark, name) for word in words]
    assert main(["rank", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_more_than_a_page(model: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(27):
        Image.fromarray(make_phantom((32, 40), seed=number)[0]).save(tmp_path / "in" / f"{number}.png")
    words = ["rank", str(tmp_path / "in"), str(tmp_path / "o"), "--model", model, "--device=cpu", "--quiet"]
    assert main([*words, "--count=27"]) == 0
    assert tree(tmp_path / "o") == ["contact_sheet.png", "contact_sheet_2.png", "ranking.csv", "ranking.json"]
    (tmp_path / "o" / "contact_sheet_notes.png").write_bytes(b"somebody's own")
    assert main([*words, "--count=3", "--overwrite"]) == 0
    assert tree(tmp_path / "o") == ["contact_sheet.png", "contact_sheet_notes.png", "ranking.csv", "ranking.json"]


@pytest.mark.real_data
def test_near_duplicates_of_busi_are_not_asked_for_twice(model: str, tmp_path: Path) -> None:
    if not os.environ.get("PHNET_DATA"):
        pytest.skip("PHNET_DATA is not set")
    found = sorted(Path(os.environ["PHNET_DATA"]).glob("Dataset_BUSI_with_GT/benign/*).png"))[:20]
    (tmp_path / "in").mkdir()
    for image in found:
        (tmp_path / "in" / image.name).write_bytes(image.read_bytes())
        shrunk = Image.fromarray(read_image(image))
        shrunk.resize((shrunk.width * 9 // 10, shrunk.height * 9 // 10)).save(tmp_path / "in" / f"small {image.name}")
    words = ["rank", str(tmp_path / "in"), str(tmp_path / "o"), "--model", model, "--device=cpu", "--quiet"]
    assert main([*words, "--count=10", "--weights=0,0,1"]) == 0
    chosen = [line["image"].removeprefix("small ") for line in content(tmp_path / "o")["images"][:10]]
    assert len(set(chosen)) == 10
