# SPDX-License-Identifier: Apache-2.0
"""A real head that looks like FLAIR, with lesions that are known: its map and mask as one picture (docs/head.png).

    python scripts/show_painted.py ds002748/sub-22/anat/sub-22_T1w.nii.gz docs/head.png

The T1w scan of a healthy person is painted like FLAIR (`bundle.synthesis.painted_t1w`), lesions are planted into its
deep tissue (`bundle.synthesis.planting`), and the main job maps what came out.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from bundle import bundle_root
from bundle.cases import CONTRAST
from bundle.io.nifti import read_scan, scan_from_array
from bundle.pipeline.job import Job
from bundle.report.figures import save_map_picture
from bundle.synthesis.painted_t1w import RandPaintT1wd
from bundle.synthesis.planting import plant_lesions
from bundle.transforms.brain import BrainMaskd
from bundle.transforms.mri import to_axial

DIAMETER_MM, CONTRASTS, COUNT = (5.0, 22.0), (0.3, 0.6), (6, 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path, help="T1w scan of a healthy person, free to be shown")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seed", type=int, default=2)
    arguments = parser.parse_args()
    scan = to_axial(read_scan(arguments.scan))
    find = BrainMaskd("image", Path(bundle_root()) / "models" / "brain_mask" / "model.pt")
    paint = RandPaintT1wd("image", fluid=(0.1, 0.3))
    paint.set_random_state(arguments.seed)
    item = paint(find({"image": scan, CONTRAST: "T1w"}))
    volume, brain = item["image"][0].numpy(), item["brain"][0].numpy() > 0
    everywhere, spacing = np.ones(volume.shape[2], bool), [float(s) for s in scan.pixdim]
    rng = np.random.RandomState(arguments.seed)
    planted = plant_lesions(volume, brain, everywhere, spacing, rng, COUNT, DIAMETER_MM, CONTRASTS)
    painted = scan_from_array(planted.scan, np.asarray(scan.affine))
    result = Job(precision="float32")({"image": painted})
    anomaly, mask = (axial(result[key]) for key in ("pred", "mask"))
    grey = planted.scan / (1.7 * np.median(planted.scan[brain]))
    lesion_area = planted.lesion.sum((0, 1))
    first = int(lesion_area.argmax())
    apart = np.abs(np.arange(len(lesion_area)) - first) * spacing[2] > 12
    chosen = sorted([first, int((lesion_area * apart).argmax())])
    save_map_picture(arguments.picture, grey.clip(0, 1), anomaly, mask, chosen)
    found = anomaly[planted.lesion] >= 2
    print(f"{planted.count} lesions, {found.mean():.0%} of their voxels at 2 or above: {arguments.picture}")


def axial(volume: torch.Tensor) -> np.ndarray:
    """(X, Y, Z) in the orientation of the picture."""
    return to_axial(MetaTensor(volume))[0].numpy()


if __name__ == "__main__":
    main()
