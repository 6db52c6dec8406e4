# SPDX-License-Identifier: Apache-2.0
"""A synthetic scan, its map, and the map in bands, as one picture: what an annotator gets.

python scripts/show_bands.py docs/bands.png
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bundle.io.nifti import scan_from_array
from bundle.pipeline.job import Job
from bundle.report.figures import MAP_TOP
from bundle.scoring.display import BANDS, in_bands
from bundle.synthesis.sample import synthetic_head

COLOURS = ("#f7d13d", "#ed6925", "#781c6d")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    scan, lesion, affine = synthetic_head()
    result = Job()({"image": scan_from_array(scan, affine)})
    z = int(lesion.sum((0, 1)).argmax())
    grey, anomaly = scan[..., z].T, result["pred"][0].numpy()[..., z].T
    bands = in_bands(anomaly, 2.0)
    figure = Figure(figsize=(10.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    for axis, title in zip(axes, ("scan", "map", "bands, as a label map"), strict=True):
        axis.imshow(grey, cmap="gray", vmax=np.percentile(scan, 99.5))
        axis.set_title(title)
        axis.axis("off")
    shown = axes[1].imshow(np.ma.masked_less(anomaly, 1), cmap="inferno", vmin=1, vmax=MAP_TOP)
    figure.colorbar(shown, ax=axes[1], location="bottom", shrink=0.8, label="−log10 healthy tail")
    axes[2].imshow(np.ma.masked_equal(bands, 0), cmap=ListedColormap(COLOURS), vmin=1, vmax=3, interpolation="nearest")
    names = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, BANDS, strict=True)]
    axes[2].legend(handles=names, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False)
    figure.savefig(arguments.path, dpi=90)


if __name__ == "__main__":
    main()
