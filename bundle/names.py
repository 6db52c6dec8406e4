# SPDX-License-Identifier: Apache-2.0
"""What the name of a file says of what is in it: its contrast, or that it is no scan to be mapped.

Names are those of BIDS (https://bids-specification.readthedocs.io), where one says it plainly, and what other people
and programs call their files. A name that says nothing is no reason against a file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from .io.volumes import READERS

__all__ = ["AGENT", "NotAScan", "contrast_by_name", "contrast_in_name", "entities_of", "not_a_scan", "stem"]

#: Of what else a scan may come in; points within a name are no endings.
OTHER_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".vol", ".e2e", ".fda", ".oct", ".dcm", ".dicom")

#: Suffixes of BIDS that leave no doubt about the contrast.
BIDS_CONTRASTS = frozenset(
    (
        *("FLAIR", "T1w", "T2w", "T2starw", "PDw", "UNIT1", "inplaneT1", "inplaneT2"),
        *("angio", "bold", "dwi", "asl", "pet", "ct"),
    )
)
#: Other words for contrasts, small letters → the contrast.
WORDS = {
    **dict.fromkeys(("flair", "t2f", "t2flair"), "FLAIR"),
    **dict.fromkeys(("t1", "t1w", "t1n", "mprage", "mpr", "bravo", "t1mprage"), "T1w"),
    **dict.fromkeys(("t1c", "t1ce", "t1gd", "t1post", "t1wce", "t1wgd"), "T1c"),
    **dict.fromkeys(("t2", "t2w"), "T2w"),
    "pdw": "PDw",
    **dict.fromkeys(("t2star", "t2starw"), "T2starw"),
}
#: The same, where they are the last word of a name: elsewhere they may mean something else.
LAST_WORDS = {"pd": "PDw"} | {
    word: word.upper() for word in ("adc", "swi", "ct", "dwi", "dti", "fa", "md", "mra", "pet", "cbf", "cbv")
}
#: Contrast → what it is called after a contrast agent: a contrast of its own, for which there are no weights yet.
AGENT = {"T1w": "T1c", "FLAIR": "FLAIRc", "T2w": "T2c", "PDw": "PDc"}
AGENT_WORDS = frozenset(("ce", "gd", "gad", "gado", "gadolinium", "postcontrast", "postgad", "postgd"))
#: Keys of entities of BIDS, raw data and derivatives.
ENTITIES = frozenset(
    (
        *("sub", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir", "run"),
        *("mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "split", "recording", "chunk", "seg"),
        *("atlas", "res", "den", "label", "desc", "from", "to", "mode", "cohort", "stat", "contrast", "model", "param"),
    )
)
MAGNITUDE = "Give the magnitude image"
ITSELF = "Give the scan itself"
#: Entity, what its value may be, what such a file is, the remedy.
NO_SCAN_ENTITIES = (
    ("part", "phase|real|imag", "the phase or a part of a complex image (part-{value})", MAGNITUDE),
    ("inv", ".*", "one inversion of an MP2RAGE (inv-{value})", "Give its T1w image"),
    ("mt", "on", "a scan with magnetisation transfer (mt-on)", "Give the one without"),
    ("stat", ".*", "a statistical map (stat-{value})", ITSELF),
    ("label", ".*", "a mask or label map (label-{value})", "Give the scan that it was drawn on"),
    ("acq", ".*(localizer|localiser|scout).*", "a localizer (acq-{value})", "Give the scan that was meant for reading"),
)
#: What the last part of a name is, what such a file is, the remedy.
NO_SCAN_SUFFIXES = (
    ("mask|dseg|probseg|seg|labels?", "a mask or label map", "Give the scan that it was drawn on"),
    ("MP2RAGE|MESE|MEGRE|VFA|IRT1|MPM|MTS|MTR|FLASH|PDT2|TB1\\w+|RB1\\w+", "part of a quantitative scan", ITSELF),
    ("[A-Z]\\w*[Mm]ap|statmap|MTsat|MTVmap", "a computed map", ITSELF),
    ("phasediff|phase[12]?|magnitude[12]|fieldmap|epi", "part of a field map", ITSELF),
    ("sbref|cbv|m0scan|boldref|defacemask", "no anatomical scan", ITSELF),
)
#: Names that other programs give to their results.
OTHER_RESULTS = (
    (r"(thresh_)?(z?f|t|z)stat\d+|(var)?cope\d+|sigmasquareds|res4d", "a result of FSL FEAT"),
    (r"(spm[TF]|con|beta|ess|ResI|Res)_\d{4}|ResMS|RPV", "a result of an analysis by SPM"),
)
RESULT_FOLDERS = (".feat", ".gfeat", ".ica")
CIFTI = re.compile(r"\.(d|p)(scalar|tseries|conn|label|fan|fansamp|pconn|dconn)\w*$")


class NotAScan(NamedTuple):
    """Why a file is not taken for a scan.

    Attributes:
        reason: what it is.
        remedy: what to give instead.
    """

    reason: str
    remedy: str


def stem(path: str | Path) -> str:
    """Name of a file without its ending (``.nii.gz`` is one), or of a folder."""
    name = Path(path).name
    for ending in (*READERS, *OTHER_ENDINGS):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def entities_of(path: str | Path) -> dict[str, str]:
    """Entities of BIDS in a name, key → value."""
    pairs = [part.partition("-") for part in stem(path).split("_")]
    return {key: value for key, _, value in pairs if value and key in ENTITIES}


def contrast_by_name(path: str | Path) -> str:
    """The contrast that the name of a file ends with, as BIDS has it; empty where it says none.

    Returns:
        a suffix of BIDS, or, after a contrast agent (``ce-``), a value of `AGENT`.
    """
    last = stem(path).rpartition("_")[2]
    if last not in BIDS_CONTRASTS:
        return ""
    return AGENT.get(last, last) if "ce" in entities_of(path) else last


def contrast_in_name(path: str | Path) -> str:
    """The same by any word of the name, whoever gave it: a hint, since words may mean something else; empty where there
    is none, or several.
    """
    if certain := contrast_by_name(path):
        return certain
    words = [word for part in _free_parts(path) for word in re.split(r"[^a-z0-9]+", part.lower()) if word]
    named = {WORDS[word] for word in words if word in WORDS} | {LAST_WORDS[w] for w in words[-1:] if w in LAST_WORDS}
    if named == {"FLAIR", "T2w"}:  # as many call it in full
        named = {"FLAIR"}
    contrast = named.pop() if len(named) == 1 else ""
    return AGENT.get(contrast, contrast) if "ce" in entities_of(path) or AGENT_WORDS & set(words) else contrast


def _free_parts(path: str | Path) -> list[str]:
    """Parts of a name that are no entities of BIDS."""
    return [part for part in stem(path).split("_") if part.partition("-")[0] not in ENTITIES or "-" not in part]


def not_a_scan(path: str | Path) -> NotAScan | None:
    """What a file is, when its name says that it is no scan to be mapped; None when it may be one.

    Args:
        path: relative to the folder that was given, or the mere name.
    """
    own, entities = stem(path), entities_of(path)
    if CIFTI.search(own):
        return NotAScan("values on a surface (CIFTI)", ITSELF)
    for key, values, kind, remedy in NO_SCAN_ENTITIES:
        if key in entities and re.fullmatch(values, entities[key]):
            return NotAScan(kind.format(value=entities[key]), remedy)
    last = re.split("[_-]", own)[-1]
    for suffix, kind, remedy in NO_SCAN_SUFFIXES:
        if re.fullmatch(suffix, last):
            return NotAScan(f"{kind} ({last})", remedy)
    for pattern, kind in OTHER_RESULTS:
        if re.fullmatch(pattern, own):
            return NotAScan(kind, ITSELF)
    if folder := next((part for part in Path(path).parts[:-1] if part.endswith(RESULT_FOLDERS)), ""):
        return NotAScan(f"a result of FSL ({folder})", ITSELF)
    return None
