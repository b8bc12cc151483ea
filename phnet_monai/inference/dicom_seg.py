"""Masks and probabilities of DICOM images as DICOM segmentations (SEG), made with highdicom.

A SEG names its patient, study and source image: without them no archive can file it and no viewer can lay it over the
image. It is therefore as confidential as its source.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from phnet_monai.data.dicom import quiet_pydicom, require_pydicom
from phnet_monai.extras import extra_module
from phnet_monai.files import atomic_writer
from phnet_monai.inference.overlay import PREDICTION_COLOUR

_REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Rows", "Columns")

_PATIENT_AND_STUDY = (
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC"),
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex"),
    *("PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("DeidentificationMethodCodeSequence", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "IssuerOfAccessionNumberSequence", "ReferringPhysicianName", "StudyDescription"),
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID"),
    *("ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID"),
)
"""Elements that a result shares with its source (patient, study and clinical trial modules)."""

_EMPTY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
_PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
"""Without any of these highdicom neither writes nor reads a position."""

_COMPRESSION = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")

_US_IMAGE = "1.2.840.10008.5.1.4.1.1.6.1"
_SERIES_NUMBER = 9001
"""High, so that results come after the images in a list of series."""

_LONG_STRING = 64
"""Letters that fit into elements of the type LO."""

_TEMPORAL_POSITION_INDEX, _FRAME_CONTENT_SEQUENCE = 0x0020_9128, 0x0020_9111


def write_seg(
    path: str | Path,
    source: Path,
    values: np.ndarray,
    *,
    model: str,
    version: str,
) -> None:
    """Write one SEG instance, in a series of its own, that refers to every frame of its source.

    Needs the extra `dicom`. All frames are written, empty ones too: "nothing found" is told apart from "not looked at".

    Single images with a position in the patient (automated breast scanners) give a SEG in their frame of
    reference. All others have none: each frame is tied to the pixels of its source frame, in the order of time, and
    the spacing is that of the source.

    Args:
        path: file to write, completely or not at all.
        source: the DICOM file that `values` were made of.
        values: (N, H, W), frame by frame. bool gives a BINARY SEG, floats in [0, 1] a FRACTIONAL one of 256 steps.
        model: name of the model, kept in the segment's algorithm.
        version: version of phnet-monai.

    Raises:
        ValueError: the source lacks what a SEG must refer to, or its size is another. No value of its tags is quoted.
        OSError: a file cannot be read or written.
        MissingExtraError: pydicom or highdicom is missing.
    """
    require_highdicom()
    header = _read_source(source, values)
    try:
        seg = _make_seg(header, values, model=_ascii(model), version=_ascii(version))
    except Exception as error:
        # the text of the error may quote a tag
        raise ValueError(
            f"{source}: no DICOM segmentation can be made of its header ({type(error).__name__}). Its tags break the "
            "DICOM standard; write PNG masks of an exported picture instead."
        ) from None
    with atomic_writer(path) as stream, quiet_pydicom():
        seg.save_as(stream, enforce_file_format=True)


def _make_seg(header: Any, values: np.ndarray, *, model: str, version: str) -> Any:
    with quiet_pydicom():
        seg = _first_frame(_stand_in(header), values[:1], model=model, version=version)
        _refer_to_source(seg, header)
        _add_frames(seg, values)
        _copy_patient_and_study(header, seg)
    return seg


def require_highdicom() -> None:
    """Raise MissingExtraError with what to install if the extra `dicom` is missing."""
    require_pydicom()
    extra_module("highdicom", "dicom", purpose="writing DICOM SEG")


def _read_source(source: Path, values: np.ndarray) -> Any:
    import pydicom

    tags = [*_REQUIRED, *_PATIENT_AND_STUDY, *_PLACE, *_COMPRESSION, "NumberOfFrames", "PatientOrientation"]
    header = pydicom.dcmread(source, stop_before_pixels=True, specific_tags=tags)
    with quiet_pydicom():
        missing = [keyword for keyword in _REQUIRED if not header.get(keyword)]
    if missing:
        raise ValueError(
            f"{source} lacks {', '.join(missing)}, which a DICOM segmentation refers to. Export it again from the "
            "archive, or convert it to PNG."
        )
    found = (int(header.get("NumberOfFrames") or 1), int(header.Rows), int(header.Columns))
    if found != values.shape:
        raise ValueError(
            f"{source} has (frames, rows, columns) {found}, the result {values.shape}; it was made of another file"
        )
    return header


def _stand_in(header: Any) -> Any:
    """Header of one ultrasound image for highdicom, without patient.

    highdicom quotes names and dates that break the standard in errors and logs, does not know retired or private
    classes of images, and takes no clip without position in the patient; so it is shown this one, and what the SEG
    says of patient, study and source is filled in afterwards.
    """
    from pydicom import Dataset

    stand_in = Dataset()
    for keyword in (*_EMPTY, "AccessionNumber", "ReferringPhysicianName"):
        setattr(stand_in, keyword, "")
    stand_in.SOPClassUID = _US_IMAGE
    stand_in.Modality = "US"
    copied = [*("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Rows", "Columns"), *_COMPRESSION]
    if _has_place(header):
        copied += _PLACE
    for keyword in copied:
        if keyword in header:
            stand_in.add(header[keyword])
    return stand_in


def _has_place(header: Any) -> bool:
    """True where the SEG can be placed in the patient: a single image with all that a position needs."""
    return int(header.get("NumberOfFrames") or 1) == 1 and all(header.get(keyword) for keyword in _PLACE)


def _first_frame(stand_in: Any, values: np.ndarray, *, model: str, version: str) -> Any:
    """SEG of a single frame (1, H, W)."""
    import highdicom

    seg = highdicom.seg.Segmentation(
        source_images=[stand_in],
        pixel_array=values if values.dtype == np.bool_ else values.astype(np.float32),
        segmentation_type="BINARY" if values.dtype == np.bool_ else "FRACTIONAL",
        segment_descriptions=[_describe_lesion(model, version)],
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="phnet-monai",
        manufacturer_model_name="phnet-monai",
        software_versions=version,
        device_serial_number="none",
        series_description="Lesion masks" if values.dtype == np.bool_ else "Lesion probabilities",
        content_label="LESION",
        content_description="Automatic segmentation, research use only",
        omit_empty_frames=False,
    )
    for measures in seg.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence") or []:
        measures.pop("SpacingBetweenSlices", None)  # one slice has none; highdicom states 1 mm
    return seg


def _describe_lesion(model: str, version: str) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes
    from skimage.color import rgb2lab

    algorithm = AlgorithmIdentificationSequence(
        name=f"phnet-monai {model}"[:_LONG_STRING],
        family=codes.DCM.ArtificialIntelligence,
        version=version[:_LONG_STRING],
        parameters={"model": model},
    )
    description = SegmentDescription(
        segment_number=1,
        segment_label="Lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )
    colour = rgb2lab(np.array(PREDICTION_COLOUR) / 255)
    description.RecommendedDisplayCIELabValue = list(CIELabColor(*map(float, colour)).value)
    return description


def _ascii(text: str) -> str:
    """`text` for an element whose character set is that of the source, where a backslash parts values."""
    return text.encode("ascii", "replace").decode().replace("\\", "/") or "unnamed"


def _refer_to_source(seg: Any, header: Any) -> None:
    """Give the references the class of the source, and the frame number where that is a class of frames.

    The number of the only frame is left out in other classes: the standard allows it in multi-frame ones alone, and
    some machines write NumberOfFrames 1 into single images.
    """
    from pydicom.uid import UID

    for element in seg.iterall():
        if element.keyword == "ReferencedSOPClassUID" and element.value == _US_IMAGE:
            element.value = header.SOPClassUID
    if "NumberOfFrames" in header and "Multi-frame" in UID(header.SOPClassUID).name:
        _source_image(seg.PerFrameFunctionalGroupsSequence[0]).ReferencedFrameNumber = 1


def _source_image(frame: Any) -> Any:
    return frame.DerivationImageSequence[0].SourceImageSequence[0]


def _add_frames(seg: Any, values: np.ndarray) -> None:
    """Make the SEG of the first frame one of all frames of a clip, (N, H, W)."""
    if len(values) == 1:
        return
    _index_by_time(seg)
    first = seg.PerFrameFunctionalGroupsSequence[0]
    frames = [deepcopy(first) for _ in values]
    for number, frame in enumerate(frames, start=1):
        _source_image(frame).ReferencedFrameNumber = number
        frame.FrameContentSequence[0].TemporalPositionIndex = number
        frame.FrameContentSequence[0].DimensionIndexValues = [1, number]
    seg.PerFrameFunctionalGroupsSequence = frames
    seg.NumberOfFrames = len(values)
    seg.PixelData = b"".join(_pixel_bytes(values))


def _index_by_time(seg: Any) -> None:
    """Second dimension, beside the segment: the position in the clip."""
    index = deepcopy(seg.DimensionIndexSequence[0])
    index.DimensionIndexPointer = _TEMPORAL_POSITION_INDEX
    index.FunctionalGroupPointer = _FRAME_CONTENT_SEQUENCE
    index.DimensionDescriptionLabel = "Temporal Position Index"
    seg.DimensionIndexSequence.append(index)


def _pixel_bytes(values: np.ndarray) -> Iterator[bytes]:
    """Pixel Data of all frames: a bit per pixel without gaps between frames, or a byte; of even length."""
    if values.dtype == np.bool_:
        packed = np.packbits(values, bitorder="little")
        yield packed.tobytes()
        yield b"\0" * (len(packed) % 2)
        return
    for frame in values:
        yield np.rint(frame * 255).astype(np.uint8).tobytes()
    yield b"\0" * (values.size % 2)


def _copy_patient_and_study(header: Any, seg: Any) -> None:
    """Copy the shared elements byte for byte, so that what breaks the standard in the source stays equal to it."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.filewriter import correct_ambiguous_vr

    shared = list(_PATIENT_AND_STUDY)
    if not _has_place(header):  # then the standard asks for the letters of the two directions, or an empty element
        seg.PatientOrientation = None
        shared.append("PatientOrientation")
    correct_ambiguous_vr(seg, True)  # which writing leaves out for what counts as read from a file
    for keyword in shared:
        if keyword in header:
            element = _typed(header, tag_for_keyword(keyword))
            seg[element.tag] = element
    # otherwise writing decodes and encodes all text, and what is no text in the stated character set is lost
    seg.set_original_encoding(False, True, header.original_character_set)


def _typed(dataset: Any, tag: Any) -> Any:
    """An element of a dataset that was read: text as its bytes, with the type that implicit files leave out."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR
    from pydicom.dataelem import RawDataElement
    from pydicom.valuerep import STR_VR

    element = dataset.get_item(tag)
    if not isinstance(element, RawDataElement):
        return element
    known = dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
    vr = known if element.VR in (None, "UN") else element.VR
    if vr in STR_VR:
        return element._replace(VR=vr)
    element = dataset[tag]
    for item in element.value if vr == "SQ" else ():
        for inner in list(item.keys()):
            item[inner] = _typed(item, inner)
        item.set_original_encoding(False, True)
    return element
