# SPDX-License-Identifier: Apache-2.0
"""Put the tables that `flipmap evaluate` has written into the pages that show them.

    python scripts/fill_docs.py [--check]

Each stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; nobody copies a figure by hand.
"""

import argparse
import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path

from bundle import bundle_root
from bundle.io.files import whole_file

DOCS = Path(bundle_root()) / "docs"
PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("index", "README", "evaluation", "oct", "contrasts", "decisions/0008-rooms")),
)
MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
#: Rows and columns of the README: name in places.csv → what it is called there.
SHOWN = {
    "intensity": "plain intensity",
    "structured flips": "structured flips, one pass",
    "synthetic lesions, brighter": "synthetic lesions, brighter",
    "default": "**default: both and the intensity**",
}
PLACES = {
    "LGG": "LGG, {} test patients",
    "elderly": "elderly, {}",
    "small lesions": "small lesions, {}",
    "BraTS": "BraTS, {}",
}

#: People in tables of findings → what they are called on first pages.
PEOPLE = {
    "LGG": "glioma (LGG), FLAIR",
    "elderly": "elderly, white-matter lesions, FLAIR",
    "small lesions": "elderly, small lesions, FLAIR",
    "BraTS": "glioma (BraTS), FLAIR",
    "LGG T1w": "glioma (LGG), T1w",
    "healthy 3-D": "healthy, 3-D FLAIR",
    "healthy, IXI": "healthy, T1w (IXI)",
    "healthy, ds002748": "healthy, T1w (ds002748)",
}
#: Columns of docs/oct.md: name in docs/oct/table.csv → what it is called there.
OCT_PATIENTS = {
    "auroc_amd": "AMD (Duke)",
    "auroc_cnv": "CNV",
    "auroc_dme": "DME",
    "auroc_drusen": "drusen",
    "auroc_all": "all",
    "ap_all": "AP, all",
}
OCT_RATES = {"rate_0.01": "1 % became", "rate_0.001": "0.1 % became"}
OCT_PIXELS = {"synthetic_auprc": "synthetic", "elevation_auprc": "elevation", "fluid_auprc": "fluid"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; say which pages are not current")
    check = parser.parse_args().check
    pages = {Path(bundle_root()) / name: fill(Path(bundle_root()) / name) for name in PAGES}
    stale = [path for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    for path in [] if check else stale:
        with whole_file(path) as temporary:
            temporary.write_text(pages[path], encoding="utf-8")
    if stale:
        print(f"{'not current' if check else 'written'}: {', '.join(path.name for path in stale)}")
    sys.exit(bool(check and stale))


def fill(page: Path) -> str:
    """The page with the tables as they are now."""
    return MARKED.sub(lambda m: m[1] + TABLES[m[2]]().strip() + "\n" + m[3], page.read_text(encoding="utf-8"))


def places_in_short() -> str:
    """AUPRC of the rows that matter most, pooled over voxels."""
    with (DOCS / "evaluation" / "places.csv").open(encoding="utf-8") as file:
        rows = {(row["place"], row["method"]): row for row in csv.DictReader(file)}
    counts = {place: rows[place, "default"]["scans"] for place in PLACES}
    shown = _cells("evaluation/places.md")  # rounded once; the CSV is rounded already
    lines = ["| method | " + " | ".join(name.format(counts[place]) for place, name in PLACES.items()) + " |"]
    lines.append("|---" * (len(PLACES) + 1) + "|")
    for method, name in SHOWN.items():
        bold = "**" if method == "default" else ""
        cells = [f"{bold}{shown[method][place].partition(' / ')[0]}{bold}" for place in PLACES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def findings_in_short() -> str:
    """What a person reads of the default's maps."""
    rows = []
    for name in ("findings", "findings_t1w"):
        with (DOCS / "evaluation" / f"{name}.csv").open(encoding="utf-8") as file:
            rows += [row for row in csv.DictReader(file) if row["method"] == "default"]
    lines = [
        "| people | scans | findings a scan, median | of them true | lesions hit | lesion F1 (ISLES) |",
        "|---" * 6 + "|",
    ]
    for row in rows:
        if row["ill"] == "True":
            shares = [f"{float(row[key]):.2f}" if row[key] else "–" for key in ("true", "lesions_hit", "isles_f1")]
            people, findings = PEOPLE[row["place"]], f"{float(row['findings']):g}"
            lines.append(f"| {people} | {row['scans']} | {findings} | {' | '.join(shares)} |")
    for row in rows:
        if row["ill"] == "False":
            lines.append(f"| {PEOPLE[row['place']]} | {row['scans']} | {float(row['seen_1']):.2f}, mean | | | |")
    return "\n".join(lines)


def oct_in_short() -> str:
    """AUROC a disease with its interval, rates, and AUPRC over pixels; a star where no calibration ships."""
    with (DOCS / "oct" / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = _cells("oct/table.md")  # rounded once; intervals in the CSV are rounded already
    lines = ["| method | " + " | ".join((*OCT_PATIENTS.values(), *OCT_RATES.values(), *OCT_PIXELS.values())) + " |"]
    lines.append("|---" * (1 + len(OCT_PATIENTS) + len(OCT_RATES) + len(OCT_PIXELS)) + "|")
    for row in rows:
        cells = [shown[row["method"]][key.replace("_", " ")] for key in OCT_PATIENTS]
        cells += [_rate(row, key) for key in OCT_RATES]
        cells += [f"{float(row[key]):.3f}" if row[key] else "" for key in OCT_PIXELS]
        lines.append(f"| {row['method']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(name: str) -> dict[str, dict[str, str]]:
    """Row → column → cell of a table that evaluation wrote for people, figures rounded once."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in (DOCS / name).read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]
    head = rows[0]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows[1:]}


def _rate(row: dict[str, str], key: str) -> str:
    shipped, reached = row[f"shipped_{key}"], row[f"reached_{key}"]
    return f"{float(shipped):.2%}" if shipped else f"{float(reached):.2%}*" if reached else ""


def contrasts() -> str:
    """How often the contrast of a scan is told right."""
    with (DOCS / "evaluation" / "contrasts.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = ["| set | contrast | looks | right | wrong and sure |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row.values())} |" for row in rows[:-1]]
    total = rows[-1]
    share = int(total["right"]) / int(total["looks"])
    said = [f"**{total['looks']}**", f"**{total['right']} ({share:.1%})**", f"**{total['wrong_and_sure']}**"]
    return "\n".join([*lines, f"| **all** | | {' | '.join(said)} |"])


def several() -> str:
    """AUPRC and rates of each contrast and of the map of both."""
    with (DOCS / "evaluation" / "several.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    titles = ["set", "heads", "map", "AUPRC, pooled / mean", "1 % became", "0.1 % became"]
    titles += ["findings", "true", "lesions hit", "F1, ISLES"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        rates = [f"{float(row[f'rate_{value}']):.2%}" for value in (2, 3)]
        auprc = f"{float(row['pooled']):.3f} / {float(row['mean']):.3f}"
        found = [
            f"{float(row[key]):.3g}" if row[key] else "" for key in ("findings", "true", "lesions_hit", "isles_f1")
        ]
        cells = (row["set"], row["heads"], row["map"], auprc, *rates, *found)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def several_shares() -> str:
    """What each share of T1w gave on those who chose it."""
    with (DOCS / "evaluation" / "several_shares.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = ["| share of T1w | LGG, validation | small lesions | mean gain |", "|---|---|---|---|"]
    for row in rows:
        pairs = [
            f"{float(row[f'{p}_pooled']):.4f} / {float(row[f'{p}_mean']):.4f}" for p in ("brain_lgg", "brain_wml10")
        ]
        lines.append(f"| {float(row['share_T1w']):g} | {' | '.join(pairs)} | {float(row['gain']):.3f} |")
    return "\n".join(lines)


def t2w_planted() -> str:
    """Small lesions planted into T2w scans of the people who trained nothing."""
    with (DOCS / "evaluation" / "small_lesions_t2w.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "validation"]
    lines = [f"| method | {rows[0]['patients']} people, pooled | mean of single ones |", "|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['method']} | {float(row['auprc']):.3f} | {float(row['auprc_of_single_patients']):.3f} |")
    return "\n".join(lines)


def _file(name: str) -> Callable[[], str]:
    return lambda: (DOCS / name).read_text(encoding="utf-8")


#: Name between the marks → what stands there.
TABLES = {
    "places_in_short": places_in_short,
    "places": _file("evaluation/places.md"),
    "places_lesions": _file("evaluation/places_lesions.md"),
    "findings_in_short": findings_in_short,
    "findings": _file("evaluation/findings.md"),
    "findings_t2w": _file("evaluation/findings_t2w.md"),
    "findings_oct": _file("oct/findings_oct.md"),
    "noise_oct": _file("oct/noise_oct.md"),
    "stability": _file("evaluation/stability.md"),
    "findings_t1w": _file("evaluation/findings_t1w.md"),
    "patients": _file("evaluation/table.md"),
    "oct_in_short": oct_in_short,
    "contrasts": contrasts,
    "several": several,
    "several_shares": several_shares,
    "before_after": _file("evaluation/before_after.md"),
    "t1w": _file("evaluation/t1w.md"),
    "t1w_lesions": _file("evaluation/t1w_lesions.md"),
    "t2w": _file("evaluation/t2w.md"),
    "t2w_lesions": _file("evaluation/t2w_lesions.md"),
    "t2w_planted": t2w_planted,
}


if __name__ == "__main__":
    main()
