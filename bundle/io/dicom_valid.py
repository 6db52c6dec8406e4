# SPDX-License-Identifier: Apache-2.0
"""Attributes that a result takes from its source: what breaks the standard is left empty, so that the result is valid.

Anonymising leaves such values behind: dates of asterisks, ages in words, a sex of its own, no identifier at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["made_valid", "usable_uid"]

#: Attributes that a result must have, empty where nothing is known (type 2 of the standard).
NEEDED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
#: Attribute → its only values.
KNOWN = {"PatientSex": ("M", "F", "O"), "PatientSexNeutered": ("ALTERED", "UNALTERED")}
#: UIDs that tie a result to its source.
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
UNICODE = "ISO_IR 192"
#: Groups that patient, study and equipment are in; and what of them says where pixels lie, which is not touched here.
GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0032, 0x0038, 0x0040)
IMAGE = ("ImageType", "SliceThickness", "SpacingBetweenSlices", "SpecificCharacterSet")
DATES = ("DA", "TM", "DT")
#: Value representations of which every value is valid, or which pydicom checks nothing of.
BYTES = ("OB", "OW", "OF", "OD", "OL", "OV", "UN", "AT")
LONGEST_UID = 64
NAME_PARTS = 5  # of a person's name


def usable_uid(value: object) -> bool:
    """Whether archives can work with a UID: digits and points. That no part begins with 0 is often not kept to."""
    return len(str(value)) <= LONGEST_UID and re.fullmatch(r"\d+(\.\d+)+", str(value)) is not None


def made_valid(images: Sequence[Any], series: str) -> list[str]:
    """Mend the data sets of a series in place, as sources of results.

    The first one, which patient and study are taken from, loses every value that breaks the standard. UIDs that no
    archive can use are replaced in all of them, by ones that follow from them.

    Args:
        images: of pydicom.
        series: SeriesInstanceUID, or what stands for it.

    Returns:
        keywords of what was replaced or left empty, sorted.
    """
    changed = {keyword for image in images for keyword in _mend_uids(image, series)}
    first = images[0]
    changed |= _mend_characters(first)
    changed |= _mend_elements(first, nested=False)
    for keyword in NEEDED:
        if keyword not in first:
            setattr(first, keyword, "")
    return sorted(changed)


def _mend_uids(image: Any, series: str) -> list[str]:
    from pydicom.uid import generate_uid

    changed = []
    for keyword in UIDS:
        value = _value(image, keyword)
        if not usable_uid(value):
            setattr(image, keyword, generate_uid(entropy_srcs=[series, keyword, str(value)]))
            changed.append(keyword)
    return changed


def _mend_characters(image: Any) -> set[str]:
    """A character set that nobody knows becomes Unicode; letters that it does not hold are lost."""
    from highdicom import SpecificCharacterSetValues

    value = _value(image, "SpecificCharacterSet")
    if value is None:
        return set()
    given = [value] if isinstance(value, str) else list(value)
    if given and all(one in {known.value for known in SpecificCharacterSetValues} for one in given):
        return set()
    for element in _elements(image):
        _ = element  # decoded with the set that is there, or with none
    image.SpecificCharacterSet = UNICODE
    return {"SpecificCharacterSet"}


def _mend_elements(dataset: Any, nested: bool) -> set[str]:
    """Empty what must be there, remove the rest; in items of sequences, too."""
    changed = set()
    for tag in list(dataset.keys()):
        keyword = _keyword(tag)
        if not nested and ((tag.group not in GROUPS and keyword not in NEEDED) or keyword in IMAGE):
            continue
        element = _element(dataset, tag)
        if element is not None and element.VR == "SQ":
            for item in element.value:
                changed |= _mend_elements(item, nested=True)
        elif element is None or not _valid(element):
            del dataset[tag]
            if keyword in NEEDED and not nested:
                setattr(dataset, keyword, "")
            changed.add(keyword)
    return changed


def _valid(element: Any) -> bool:
    from pydicom import config
    from pydicom.valuerep import validate_value

    if element.is_empty:
        return True
    values = element.value if element.VM > 1 else [element.value]
    if len(values) > 1 and _only_one(element):
        return False
    if element.VR == "UI":
        return all(usable_uid(value) for value in values)
    if element.VR == "PN" and any(group.count("^") >= NAME_PARTS for v in values for group in str(v).split("=")):
        return False
    if element.keyword in KNOWN and not all(value in KNOWN[element.keyword] for value in values):
        return False
    try:
        for value in values:
            if element.VR in DATES:
                _ = _date(element.VR, value)
            if element.VR not in BYTES:
                validate_value(element.VR, _plain(value), config.RAISE)
    except Exception:
        return False
    return True


def _only_one(element: Any) -> bool:
    """Whether the dictionary allows one value of an attribute."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VM

    return dictionary_has_tag(element.tag) and dictionary_VM(element.tag) == "1"


def _date(kind: str, value: Any) -> object:
    """One moment, no range, as the classes of pydicom take it."""
    from pydicom import valuerep

    return getattr(valuerep, kind)(str(value))


def _plain(value: Any) -> Any:
    """Numbers that were written as text, and names, as the text that they were."""
    if type(value).__name__ in ("DSfloat", "DSdecimal", "IS", "PersonName", "DA", "TM", "DT"):
        return getattr(value, "original_string", None) or str(value)
    return value


def _value(dataset: Any, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except Exception:
        return None


def _element(dataset: Any, tag: Any) -> Any:
    """An element; None where pydicom cannot make sense of it."""
    try:
        return dataset[tag]
    except Exception:
        return None


def _elements(dataset: Any) -> list[Any]:
    return [element for tag in list(dataset.keys()) if (element := _element(dataset, tag)) is not None]


def _keyword(tag: Any) -> str:
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(tag) or str(tag)
