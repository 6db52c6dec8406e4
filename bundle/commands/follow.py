# SPDX-License-Identifier: Apache-2.0
"""Compare two scans of one person: what is new, gone, larger, smaller.

flipmap follow EARLIER LATER OUT

EARLIER and LATER are scans, DICOM studies, or sessions of a BIDS data set (sub-01/ses-1, sub-01/ses-2): scans of one
contrast are compared.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..errors import EXIT_CODES, FlipmapError
from .options import add_settings, positive, settings_of

__all__ = ["add_arguments", "run"]

logger = logging.getLogger("flipmap")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("earlier", type=Path, help="the first scan")
    parser.add_argument("later", type=Path, help="the second scan, on whose grid the results are")
    parser.add_argument("output", type=Path, help="folder of the results")
    parser.add_argument("--contrast", metavar="SUFFIX", help="see flipmap run")
    parser.add_argument("--series", help="regular expression for DICOM series (default: that of the modality)")
    parser.add_argument("--threads", type=positive, help="most threads of arithmetic (default: all cores)")
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    from ..batch.sources import plan_of
    from ..follow.follow import compare, pairs_of, write_page
    from ..pipeline.spec import AUTO, JobSpec

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = settings_of(options.set)
    if options.threads:
        settings["threads"] = options.threads
    job = JobSpec((), settings, options.contrast or AUTO).load()
    if job.uncalibrated:
        raise FlipmapError("--set calibration=none", "raw scores of two scans do not compare", "Leave it out")
    plans = [plan_of(source, job, options.series)[0] for source in (options.earlier, options.later)]
    for pair in pairs_of(plans[0], plans[1], job):
        changes = compare(pair, job, options.output)
        counts = {
            state: sum(one.state == state for one in changes) for state in dict.fromkeys(c.state for c in changes)
        }
        said = ", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing above the threshold"
        logger.info("%s → %s: %s", pair.earlier.name, pair.later.name, said)
    logger.info("%s", write_page(options.output))
    return EXIT_CODES["all good"]
