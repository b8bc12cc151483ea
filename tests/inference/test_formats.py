"""Results read back by the libraries of their formats are what was written, in the place of their source."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from phnet_monai.data.decode import NoImageError
from phnet_monai.data.scan import Scan, read_scan
from phnet_monai.inference import Predictor, infer_folder
from phnet_monai.inference.formats import mask_suffix, write_scan_masks, write_scan_probabilities

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
highdicom = pytest.importorskip("highdicom", reason="the extra dicom is not installed")

files = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "scan_files.py")))
make_dicom = files.make_dicom

PLACE = {
    "FrameOfReferenceUID": "1.2.3.4",
    "ImagePositionPatient": ["10", "20", "30"],
    "ImageOrientationPatient": ["1", "0", "0", "0", "0", "-1"],
    "PixelSpacing": ["0.1", "0.2"],
    "SliceThickness": "0.5",
}


def _masks(scan: Scan) -> np.ndarray:
    """bool (N, H, W), another in each frame, the first of several empty."""
    masks = np.zeros(scan.frames.shape, dtype=bool)
    for index, mask in enumerate(masks):
        mask[1 : 4 + index, 2 + index : 9] = len(masks) == 1 or index > 0
    return masks


def _probs(scan: Scan) -> np.ndarray:
    probs = np.random.default_rng(0).random(scan.frames.shape, dtype=np.float32)
    probs[0, 0, :2] = 0, 1
    return probs


def _picture(tmp_path: Path) -> Scan:
    Image.fromarray(files.picture()).save(tmp_path / "a.png")
    return read_scan(tmp_path / "a.png")


def _dicom(tmp_path: Path, *, frames: int | None = None, **tags: Any) -> Scan:
    values = files.picture(11, 21)  # the bits of a frame fill no whole bytes
    pixels = values if frames is None else np.stack([np.roll(values, k) for k in range(frames)])
    return read_scan(make_dicom(tmp_path / "a.dcm", pixels, frames=frames is not None, **tags))


def test_suffixes() -> None:
    assert [mask_suffix(kind) for kind in ("picture", "nifti", "dicom")] == [".png", ".nii.gz", ".dcm"]


def test_picture(tmp_path: Path) -> None:
    scan = _picture(tmp_path)
    write_scan_masks(tmp_path / "m.png", scan, _masks(scan))
    write_scan_probabilities(tmp_path / "p.png", scan, _probs(scan))
    np.testing.assert_array_equal(Image.open(tmp_path / "m.png"), _masks(scan)[0] * 255)
    np.testing.assert_array_equal(Image.open(tmp_path / "p.png"), np.rint(_probs(scan)[0] * 255))


AFFINE = np.array([[-0.2, 0, 0, 5], [0, 0, -2, 1], [0, -0.1, 0, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("shape", [(20, 12), (20, 12, 1), (20, 12, 3), (20, 12, 3, 1)])
@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_keeps_the_geometry_of_its_source(tmp_path: Path, shape: tuple[int, ...], version: type) -> None:
    data = np.random.default_rng(0).integers(-500, 3000, shape).astype(np.int16)
    source = version(data, AFFINE)
    source.header.set_xyzt_units("mm")
    source.set_sform(AFFINE, code="scanner")
    source.set_qform(AFFINE, code="aligned")
    source.to_filename(tmp_path / "a.nii.gz")
    scan = read_scan(tmp_path / "a.nii.gz")
    for write, values, dtype in (
        (write_scan_masks, _masks(scan), np.uint8),
        (write_scan_probabilities, _probs(scan), np.float32),
    ):
        write(tmp_path / "r.nii.gz", scan, values)
        result = nibabel.load(tmp_path / "r.nii.gz")
        assert type(result) is version
        assert result.shape == shape
        assert result.get_data_dtype() == dtype
        np.testing.assert_array_equal(result.affine, source.affine)
        for field in ("pixdim", "sform_code", "qform_code", "xyzt_units", "srow_x", "quatern_b", "qoffset_x"):
            np.testing.assert_array_equal(result.header[field], source.header[field])
        stored = np.asarray(result.dataobj).reshape(20, 12, -1)
        np.testing.assert_array_equal([stored[:, :, k].T for k in range(stored.shape[2])], values)


def test_nifti_without_codes_keeps_none(tmp_path: Path) -> None:
    nibabel.Nifti1Image(files.picture().T, None).to_filename(tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    write_scan_masks(tmp_path / "r.nii.gz", scan, _masks(scan))
    header = nibabel.load(tmp_path / "r.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)


def test_nifti_of_colour_gives_a_plain_mask(tmp_path: Path) -> None:
    data = np.zeros((20, 12), dtype=[(name, "u1") for name in "RGB"])
    nibabel.Nifti1Image(data, None).to_filename(tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    write_scan_masks(tmp_path / "r.nii.gz", scan, _masks(scan))
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "r.nii.gz").dataobj).T, _masks(scan)[0])


def test_nifti_results_carry_no_text_of_the_source(tmp_path: Path) -> None:
    source = nibabel.Nifti1Image(files.picture().T, None)
    source.header["descrip"], source.header["db_name"] = b"Roe^Jane", b"MRN4711"
    source.header["cal_max"] = 99
    source.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Roe^Jane"))
    source.to_filename(tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    write_scan_masks(tmp_path / "r.nii.gz", scan, _masks(scan))
    result = nibabel.load(tmp_path / "r.nii.gz")
    assert b"Roe" not in result.to_bytes()
    assert b"MRN" not in result.to_bytes()
    assert len(result.header.extensions) == 0
    assert float(result.header["cal_max"]) == 0
    np.testing.assert_array_equal(np.asarray(result.dataobj).T, _masks(scan)[0])


MULTI_FRAME = (files.US_MULTIFRAME, "1.2.840.10008.5.1.4.1.1.3")


def _stored(seg: Any, source: Any) -> np.ndarray:
    """(N, H, W), looked up in a SEG by the source's frames."""
    if source.SOPClassUID in MULTI_FRAME:
        numbers = list(range(1, int(source.NumberOfFrames) + 1))
        return seg.get_pixels_by_source_frame(source.SOPInstanceUID, numbers)[..., 0]
    return seg.get_pixels_by_source_instance([source.SOPInstanceUID])[..., 0]


SOURCES = {
    "single": {},
    "single without spacing": {"PixelSpacing": ["0.1", "0.2"]},
    "in the patient": PLACE,
    "frame of reference alone": {"FrameOfReferenceUID": "1.2.3.4"},
    "clip of one": {"frames": 1},
    "clip": {"frames": 5},
    "clip in a frame of reference": {"frames": 2, "FrameOfReferenceUID": "1.2.3.4"},
    "retired class": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6"},
    "retired clip": {"frames": 3, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.3"},
    "secondary capture": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
    "single that counts its frame": {"NumberOfFrames": 1},
    "clip in the patient": {"frames": 2, **PLACE},
    "directions of the patient": {"PatientOrientation": ["L", "F"]},
}


@pytest.mark.parametrize("options", SOURCES.values(), ids=SOURCES.keys())
@pytest.mark.parametrize("result", ["masks", "empty masks", "probabilities"])
def test_seg_is_read_back_by_source_frame(tmp_path: Path, options: dict[str, Any], result: str) -> None:
    scan = _dicom(tmp_path, **options)
    source = pydicom.dcmread(scan.path)
    path = tmp_path / "seg.dcm"
    if result == "probabilities":
        values = _probs(scan)
        write_scan_probabilities(path, scan, values)
        expected = np.rint(values * 255) / 255
    else:
        values = _masks(scan) & (result == "masks")
        write_scan_masks(path, scan, values)
        expected = values
    seg = highdicom.seg.segread(path)
    np.testing.assert_allclose(_stored(seg, source), expected, atol=1e-6)
    raw = pydicom.dcmread(path)
    assert raw.SegmentationType == ("FRACTIONAL" if result == "probabilities" else "BINARY")
    pixels = raw.pixel_array.reshape(values.shape)
    np.testing.assert_array_equal(pixels, np.rint(values * (255 if result == "probabilities" else 1)))
    assert len(raw.PixelData) % 2 == 0
    assert raw.NumberOfFrames == len(raw.PerFrameFunctionalGroupsSequence) == len(values)


@pytest.mark.parametrize("frames", [None, 1, 4])
def test_seg_refers_to_its_source(tmp_path: Path, frames: int | None) -> None:
    scan = _dicom(tmp_path, frames=frames)
    source = pydicom.dcmread(scan.path)
    write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    series = seg.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    images = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in seg.PerFrameFunctionalGroupsSequence]
    for reference in [series.ReferencedInstanceSequence[0], *images]:
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
    numbers = [image.get("ReferencedFrameNumber") for image in images]
    assert numbers == ([None] if frames is None else list(range(1, frames + 1)))
    assert seg.SOPInstanceUID != source.SOPInstanceUID
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID


def test_a_single_image_that_counts_its_frame_is_referred_to_without_number(tmp_path: Path) -> None:
    scan = _dicom(tmp_path, NumberOfFrames=1)
    write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert not [element for element in seg.iterall() if element.keyword == "ReferencedFrameNumber"]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, ""),
        ({"PatientOrientation": ["L", "F"]}, ["L", "F"]),
        ({"PatientOrientation": ["L", "F"], "frames": 2, **PLACE}, ["L", "F"]),
        ({"PatientOrientation": ["L", "F"], **PLACE}, "absent"),
    ],
)
def test_seg_without_position_has_the_directions_of_its_source(
    tmp_path: Path, tags: dict[str, Any], expected: Any
) -> None:
    scan = _dicom(tmp_path, **tags)
    write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))
    assert pydicom.dcmread(tmp_path / "seg.dcm").get("PatientOrientation", "absent") == expected


UNKNOWN_TO_DCIODVFY = {
    "retired clip": "Shall not be present for Referenced SOP Class that is not multi-frame",
}
"""Errors by source that are no errors: the retired class of clips is missing in its table of multi-frame classes."""


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: dicom3tools)")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("result", ["masks", "probabilities"])
def test_a_validator_finds_no_error(tmp_path: Path, source: str, result: str) -> None:
    scan = _dicom(tmp_path, **SOURCES[source])
    path = tmp_path / "seg.dcm"
    if result == "masks":
        write_scan_masks(path, scan, _masks(scan))
    else:
        write_scan_probabilities(path, scan, _probs(scan))
    found = subprocess.run(["dciodvfy", path], capture_output=True, text=True, errors="replace", check=False)
    lines = [*found.stdout.splitlines(), *found.stderr.splitlines()]
    assert "Segmentation" in lines  # the kind of object that it was checked as
    errors = [line for line in lines if line.startswith("Error")]
    allowed = UNKNOWN_TO_DCIODVFY.get(source)
    assert [line for line in errors if allowed is None or allowed not in line] == []


def test_frames_of_a_clip_are_indexed(tmp_path: Path) -> None:
    scan = _dicom(tmp_path, frames=3)
    write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    content = [frame.FrameContentSequence[0] for frame in seg.PerFrameFunctionalGroupsSequence]
    assert [list(item.DimensionIndexValues) for item in content] == [[1, 1], [1, 2], [1, 3]]
    assert [item.TemporalPositionIndex for item in content] == [1, 2, 3]
    assert len(seg.DimensionIndexSequence) == 2


def test_seg_in_the_patient_keeps_its_place(tmp_path: Path) -> None:
    scan = _dicom(tmp_path, **PLACE)
    write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.FrameOfReferenceUID == "1.2.3.4"
    shared, frame = seg.SharedFunctionalGroupsSequence[0], seg.PerFrameFunctionalGroupsSequence[0]
    assert frame.PlanePositionSequence[0].ImagePositionPatient == [10, 20, 30]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 0, -1]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.1, 0.2]
    assert "SpacingBetweenSlices" not in shared.PixelMeasuresSequence[0]


def test_segment_is_a_lesion_found_by_this_program(tmp_path: Path) -> None:
    scan = _dicom(tmp_path)
    write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan), model="modèle\\a " + 80 * "x", version="1.2.3")
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    (segment,) = seg.SegmentSequence
    assert segment.SegmentLabel == "Lesion"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    category, kind = segment.SegmentedPropertyCategoryCodeSequence[0], segment.SegmentedPropertyTypeCodeSequence[0]
    assert (category.CodeValue, category.CodingSchemeDesignator) == ("49755003", "SCT")
    assert (kind.CodeValue, kind.CodeMeaning) == ("52988006", "Lesion")
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName.startswith("phnet-monai mod?le/a x")
    assert len(algorithm.AlgorithmName) == 64
    assert algorithm.AlgorithmVersion == "1.2.3"
    assert 80 * "x" in algorithm.AlgorithmParameters


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Müller^Jürgen=山田^太郎"},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"},
        {"PatientID": None, "StudyDate": None, "AccessionNumber": None},
    ],
)
@pytest.mark.parametrize("implicit", [False, True])
def test_seg_is_filed_with_its_source(tmp_path: Path, tags: dict[str, Any], implicit: bool) -> None:
    scan = _dicom(tmp_path, **tags)
    source = pydicom.dcmread(scan.path)
    if implicit:
        source.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        source.save_as(scan.path, implicit_vr=True)
    write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    names = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyID")
    for keyword in (*names, "AccessionNumber", "StudyDescription", "ReferringPhysicianName"):
        assert (seg.get(keyword) or "") == (source.get(keyword) or ""), keyword


def _break(path: Path, old: bytes, new: bytes) -> None:
    assert len(old) == len(new)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def test_tags_that_break_the_standard_are_kept_and_not_told(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    scan = _dicom(tmp_path, PatientName="Roe Jane", PatientSex="F")
    _break(scan.path, b"19560701", b"1.7.1956")
    _break(scan.path, b"101500", b"10h15 ")
    _break(scan.path, b"PN\x08\x00Roe Jane", b"PN\x08\x00R=o=e=Ja")
    _break(scan.path, b"CS\x02\x00F ", b"CS\x02\x00wf")
    recwarn.clear()
    caplog.clear()
    write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))
    told = caplog.text + "".join(capfd.readouterr()) + "".join(str(warning.message) for warning in recwarn)
    assert not any(text in told for text in ("1956", "10h15", "R=o", "wf", "MRN4711"))
    content = (tmp_path / "seg.dcm").read_bytes()
    assert all(text in content for text in (b"1.7.1956", b"10h15 ", b"R=o=e=Ja", b"CS\x02\x00wf"))


def _issuer(name: str) -> list[Any]:
    item = pydicom.Dataset()
    item.LocalNamespaceEntityID = name
    return [item]


@pytest.mark.parametrize("character_set", ["ISO_IR 192", "ISO_IR 6", "ISO_IR 999"])
@pytest.mark.parametrize(
    "syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRBigEndian]
)
def test_text_of_another_character_set_than_stated_is_kept_byte_for_byte_and_silently(
    tmp_path: Path,
    character_set: str,
    syntax: Any,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    tags = {"PatientID": "Muell 12", "PatientName": "Muell^Jo", "IssuerOfAccessionNumberSequence": _issuer("Kueche")}
    scan = _dicom(tmp_path, **tags)
    source = pydicom.dcmread(scan.path)
    source.SpecificCharacterSet = "ISO_IR 192"
    source.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(scan.path, source, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    _break(scan.path, b"ISO_IR 192", character_set.ljust(10).encode())
    texts = [(b"Muell 12", b"M\xfcll 12 "), (b"Muell^Jo", b"M\xfcll^Jo "), (b"Kueche", b"K\xfcche ")]
    for old, new in texts:
        _break(scan.path, old, new)
    recwarn.clear()
    caplog.clear()
    write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))
    told = caplog.text + "".join(capfd.readouterr()) + "".join(str(warning.message) for warning in recwarn)
    if character_set == "ISO_IR 999":  # pydicom names the unknown set
        assert not any(text in told for text in ("cll", "cche", "\N{REPLACEMENT CHARACTER}", "\xfc"))
    else:
        assert told == ""
    content = (tmp_path / "seg.dcm").read_bytes()
    assert [new for _, new in texts if new not in content] == []
    highdicom.seg.segread(tmp_path / "seg.dcm")


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_source_that_cannot_be_referred_to(tmp_path: Path, keyword: str) -> None:
    scan = _dicom(tmp_path, **{keyword: None})
    with pytest.raises(ValueError, match=rf"a\.dcm lacks {keyword}"):
        write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))
    assert not (tmp_path / "seg.dcm").exists()


def test_source_that_has_changed_is_noticed(tmp_path: Path) -> None:
    scan = _dicom(tmp_path)
    make_dicom(scan.path, files.picture(30, 30))
    with pytest.raises(ValueError, match=r"a\.dcm has \(frames, rows, columns\) \(1, 30, 30\)"):
        write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))


def test_results_are_no_input(tmp_path: Path) -> None:
    scan = _dicom(tmp_path)
    write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))
    with pytest.raises(NoImageError, match=r"seg\.dcm is a segmentation, a result in DICOM"):
        read_scan(tmp_path / "seg.dcm")


@pytest.mark.parametrize("module", ["pydicom", "highdicom"])
def test_a_missing_extra_names_the_install(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = _dicom(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'phnet-monai\[dicom\]'"):
        write_scan_masks(tmp_path / "seg.dcm", scan, _masks(scan))


def test_wrong_results_are_refused(tmp_path: Path) -> None:
    scan = _picture(tmp_path)
    masks, probs = _masks(scan), _probs(scan)
    with pytest.raises(ValueError, match=r"r\.png: expected bool masks, found uint8"):
        write_scan_masks(tmp_path / "r.png", scan, masks.astype(np.uint8))
    with pytest.raises(ValueError, match=r"r\.png: expected results of shape \(1, 12, 20\)"):
        write_scan_masks(tmp_path / "r.png", scan, masks[0])
    for value in (np.nan, -0.1, 1.1):
        probs[0, 3, 3] = value
        with pytest.raises(ValueError, match=r"r\.png: expected probabilities in \[0, 1\]"):
            write_scan_probabilities(tmp_path / "r.png", scan, probs)
    assert not (tmp_path / "r.png").exists()


@pytest.mark.parametrize("make", [_picture, _dicom])
def test_half_a_file_is_never_seen(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = make(tmp_path)
    before = sorted(tmp_path.iterdir())

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("phnet_monai.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_scan_masks(tmp_path / "r", scan, _masks(scan))
    assert sorted(tmp_path.iterdir()) == before


def test_scans_that_are_no_ultrasound_are_segmented_and_named(
    tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name, modality in (("a.dcm", "US"), ("b.dcm", "MG"), ("c.dcm", "MG"), ("d.dcm", "CT")):
        make_dicom(tmp_path / "in" / name, files.picture(), Modality=modality)
    result = infer_folder(tmp_path / "in", tmp_path / "o", predictor, quiet=True)
    assert result.counts == {"done": 4, "skipped": 0, "failed": 0}
    assert "no ultrasound by their modality: 1 CT, 2 MG. " in capsys.readouterr().err
    run = json.loads((tmp_path / "o" / "run.json").read_text())
    assert [file.get("other_modality") for file in run["files"]] == [None, "MG", "MG", "CT"]
    assert (tmp_path / "o" / "report.html").read_text().count("no ultrasound (MG)") >= 2
    infer_folder(tmp_path / "in", tmp_path / "o", predictor, quiet=True)
    assert "1 CT, 2 MG" in capsys.readouterr().err  # what was finished earlier is told, too


def test_of_ultrasound_nothing_is_said(
    tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    make_dicom(tmp_path / "in" / "a.dcm", files.picture())
    infer_folder(tmp_path / "in", tmp_path / "o", predictor, quiet=True)
    assert capsys.readouterr().err == ""
