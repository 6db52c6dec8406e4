# SPDX-License-Identifier: Apache-2.0
"""Picture of a scan and its map: scan, restored scan, anomaly map, mask, in the slices with the most anomaly.

python scripts/show_map.py SCAN.nii.gz OUTPUT_DIR picture.png
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import allow_missing_keys_mode

from bundle import bundle_root
from bundle.cases import stem
from bundle.io.nifti import read_scan
from bundle.report.figures import save_map_picture
from bundle.transforms.mri import to_axial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("output_dir", type=Path, help="where the main job left the scan's map and mask")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--slices", type=int, default=3)
    arguments = parser.parse_args()

    config = ConfigParser()
    config.read_config(Path(bundle_root()) / "configs" / "inference.json")
    config.update({"bundle_root": bundle_root()})
    network, preprocessing = config.get_parsed_content("network").eval(), config.get_parsed_content("preprocessing")

    item = preprocessing({"image": arguments.scan})
    with torch.no_grad():
        slices = item["image"].as_tensor().movedim(-1, 0).to(next(network.parameters()).device)
        restored = network(slices).cpu().movedim(0, -1)
    with allow_missing_keys_mode(preprocessing):
        back = preprocessing.inverse({"image": item["image"].clone().copy_(restored)})["image"]

    name = stem(arguments.scan)
    maps = [
        read_scan(arguments.output_dir / f"{name}_{kind}.nii.gz", labels=True) for kind in ("anomaly", "anomaly_mask")
    ]
    volumes = (read_scan(arguments.scan), back, *maps)
    panels = [to_axial(volume)[0].numpy() for volume in volumes]
    panels[0] = panels[0] / np.percentile(panels[0], 99.5)
    panels[1] = panels[1] / np.percentile(panels[1], 99.5)
    chosen = sorted(np.argsort(panels[2].sum((0, 1)))[-arguments.slices :].tolist())
    scan, restored, anomaly, mask = panels
    save_map_picture(arguments.picture, scan, anomaly, mask, chosen, restored=restored)
    print(f"picture: {arguments.picture}")


if __name__ == "__main__":
    main()
