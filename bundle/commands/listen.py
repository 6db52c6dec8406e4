# SPDX-License-Identifier: Apache-2.0
"""Be a DICOM node: map the series that an archive sends, and send the results back.

    flipmap listen --spool /var/flipmap --allow ARCHIVE@10.0.0.5 --send-to ARCHIVE@10.0.0.5:104
    flipmap listen --status --spool /var/flipmap

Needs the extra `pacs`. Everything that was acknowledged is in the spool: after a crash the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import threading
from pathlib import Path

from ..errors import FlipmapError
from .options import add_modality, add_settings, positive, seconds, settings_of

__all__ = ["add_arguments", "run"]

QUIET = ("pynetdicom", "highdicom", "pydicom")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spool", type=Path, required=True, help="folder where series and results wait")
    parser.add_argument("--status", action="store_true", help="say how many series are in which state, and end")
    parser.add_argument("--ae", default="FLIPMAP", help="AE title of this node (default: %(default)s)")
    parser.add_argument("--port", type=int, default=11112, help="to listen on (default: %(default)s)")
    parser.add_argument("--host", default="", help="address to listen on (default: all)")
    parser.add_argument("--send-to", metavar="AE@HOST:PORT", help="where the results go")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="AE@ADDRESS",
        help="who may send; others are refused; repeatable",
    )
    parser.add_argument(
        "--quiet", type=seconds, default=10.0, metavar="SECONDS", help="after which a series is complete (default: 10)"
    )
    parser.add_argument(
        "--retry", type=seconds, default=30.0, metavar="SECONDS", help="between tries to send (default: 30)"
    )
    parser.add_argument(
        "--keep", type=seconds, default=86400.0, metavar="SECONDS", help="series that are done (default: a day)"
    )
    parser.add_argument(
        "--keep-failed",
        type=seconds,
        default=7 * 86400.0,
        metavar="SECONDS",
        help="series that could not be mapped (default: a week)",
    )
    parser.add_argument(
        "--series",
        help="regular expression that the description of a series must hold (default: those of FLAIR, T1w and T2w)",
    )
    parser.add_argument("--derived", action="store_true", help="map derived series, too, as reformats are")
    parser.add_argument("--threads", type=positive, help="most threads of arithmetic (default: all cores)")
    add_modality(parser)
    add_settings(parser)


def run(options: argparse.Namespace) -> None:
    from ..archive.spool import Spool

    spool = Spool(options.spool)
    if options.status:
        if not options.spool.is_dir():
            raise FlipmapError(options.spool, "no such folder", "Give the spool of flipmap listen")
        print(json.dumps(spool.status(options.quiet or 0.0), indent=1))
        return
    if not options.send_to or not options.allow:
        raise FlipmapError("flipmap listen", "--send-to and --allow are needed", "Say where to, and who may send")
    from ..archive.listener import Listener, Peer
    from ..modalities import modality_of
    from ..pipeline.contrasts import job_of_any_contrast
    from ..pipeline.job import Job

    # One line an event: what libraries say of every request and attribute would drown it.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("flipmap").setLevel(logging.INFO)
    for library in QUIET:
        logging.getLogger(library).setLevel(logging.ERROR)
    settings = settings_of(options.set) | ({"threads": options.threads} if options.threads else {})
    modality = modality_of(options.modality)
    job = job_of_any_contrast(**settings) if modality.config is None else Job(modality.configs(), **settings)
    allowed = [Peer.of(text, with_port=False) for text in options.allow]
    receiver = Peer.of(options.send_to, with_port=True)
    waits = {"quiet": options.quiet or 0.1, "retry": options.retry or 0.1, "keep": options.keep or 0.0}
    waits["keep_failed"] = options.keep_failed or 0.0
    listener = Listener(
        job,
        spool,
        options.ae,
        options.port,
        allowed,
        receiver,
        host=options.host,
        rule=options.series,
        derived=options.derived,
        **waits,
    )
    listener.start()
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    ending.wait()
    listener.stop()
