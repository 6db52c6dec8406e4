"""``flipmap``: the command for people who run it every night. The engine is the bundle's own."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .errors import EXIT_CODES, DatasetError, FlipmapError, cause_of
from .io.volumes import READERS

__all__ = ["main"]

logger = logging.getLogger("flipmap")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except DatasetError as error:
        print(f"flipmap: {error}", file=sys.stderr)
        return EXIT_CODES["nothing to do"]
    except FlipmapError as error:
        print(f"flipmap: {error}", file=sys.stderr)
        return EXIT_CODES["usage"]
    except KeyboardInterrupt:
        print("flipmap: interrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_CODES["interrupted"]


def entry() -> None:
    """For the installed command: threads that are stuck do not keep the process, those that wait leave the cores to
    reading and writing.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch is imported
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    codes = ", ".join(f"{code} {meaning}" for meaning, code in sorted(EXIT_CODES.items(), key=lambda i: i[1]))
    parser = argparse.ArgumentParser(prog="flipmap", description=__doc__.splitlines()[0], epilog=f"exit codes: {codes}")
    parser.add_argument("--version", action="version", version=f"flipmap {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="map every scan of a folder", epilog=f"exit codes: {codes}")
    run.set_defaults(command=_run)
    run.add_argument(
        "input", type=Path, help=f"a scan, a folder of scans at any depth, or a BIDS root; DICOM, {', '.join(READERS)}"
    )
    run.add_argument("output", type=Path, help="folder of the results; a run that was cut short goes on")
    run.add_argument(
        "--config", action="append", default=[], help="config file over configs/inference.json; repeatable"
    )
    run.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="a setting of the config; repeatable"
    )
    run.add_argument("--suffix", help="contrast to take from a BIDS root (default: that of the config, FLAIR)")
    run.add_argument("--series", help="regular expression for DICOM series (default: that of the modality)")
    run.add_argument("--brain-masks", type=Path, help="folder of masks of your own, <name>_brain_mask.nii.gz")
    run.add_argument("--overwrite", action="store_true", help="do again what is done")
    run.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    run.add_argument("--jobs", type=_positive, default=2, help="scans read and written while another is computed")
    run.add_argument(
        "--timeout",
        type=_seconds,
        default=900.0,
        metavar="SECONDS",
        help="that one scan may take, read to written; then it is given up (default %(default)g; 0 for any time)",
    )
    run.add_argument("--threads", type=_positive, help="most threads of arithmetic (default: all cores)")
    run.add_argument(
        "--viewer",
        action="append",
        default=[],
        metavar="CASE|N",
        help="show the volumes of this case, or of the N highest scores, in the report; repeatable",
    )
    run.add_argument("-v", "--verbose", action="store_true", help="say more")
    run.add_argument("-q", "--quiet", action="store_true", help="say failures only")
    export = commands.add_parser("export", help="write a method as a bundle of its own, for MONAI Label or a release")
    export.set_defaults(command=_export)
    export.add_argument("path", type=Path, help="OUT.zip, or a folder that is not there yet")
    export.add_argument("--modality", default="flair", help="flair (default), oct")
    export.add_argument("--method", default="default", help="a name from configs/methods (default: the best one)")
    calibrate = commands.add_parser(
        "calibrate", help="make calibrations anew, after a training or a change of settings"
    )
    calibrate.set_defaults(command=_calibrate)
    calibrate.add_argument("--dataset_dir", type=Path, required=True, help="scans whose healthy slices count")
    calibrate.add_argument("--modality", default="flair", help="flair (default), oct")
    calibrate.add_argument(
        "--only", nargs="*", default=(), help="methods, default for the default (default: all that have a calibration)"
    )
    calibrate.add_argument("--cropped", nargs="*", default=(), help="folders of more normal B-scans, size unknown")
    calibrate.add_argument("--split", type=Path, help="split file; by default that of the modality")
    calibrate.add_argument(
        "--percentile", type=float, default=0.8, help="of the bootstrap over patients (%(default)g; 0: none)"
    )
    calibrate.add_argument("--set", action="append", default=[], metavar="ID=VALUE", help="a setting; repeatable")
    config = commands.add_parser("config", help="say where the main config is, for python -m monai.bundle run")
    config.set_defaults(command=_config)
    return parser


def _calibrate(options: argparse.Namespace) -> int:
    from .evaluation.calibrate import calibrate

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    percentile, settings = options.percentile or None, _settings(options.set)
    how = {"only": options.only, "split": options.split, "percentile": percentile, "cropped_dirs": options.cropped}
    calibrate(options.dataset_dir, options.modality, **how, **settings)
    return EXIT_CODES["all good"]


def _config(options: argparse.Namespace) -> int:
    from . import default_config

    print(default_config())
    return EXIT_CODES["all good"]


def _export(options: argparse.Namespace) -> int:
    from .export import export

    print(export(options.modality, options.method, options.path))
    return EXIT_CODES["all good"]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _seconds(text: str) -> float | None:
    """A time limit; None for 0, which is none."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time")
    return value or None


def _run(options: argparse.Namespace) -> int:
    from .batch.plan import is_done

    job = _job(options)
    plan, passed = _plan(options, job)
    if options.dry_run:
        for case in plan:
            done = not options.overwrite and is_done(case, options.output, job.fingerprint)
            print(f"{case.name}: {'done before' if done else 'to do'} ({case.where})")
        for name, why in passed.items():
            print(f"{name}: passed over, {why}")
        return EXIT_CODES["all good"]
    return _run_plan(plan, passed, job, options)


def _plan(options: argparse.Namespace, job) -> tuple[list, dict[str, str]]:
    """Files and DICOM series of the input, and what is passed over of the latter."""
    from .batch.plan import plan_cases, plan_series
    from .datasets import find_modality

    cases, passed, nothing = [], {}, None
    try:
        how = {key: job.config.get_parsed_content(key) for key in job.modality.found_by}
        cases = find_modality(options.input, job.modality.name, **how)
    except DatasetError as error:
        nothing = error
    if cases and options.brain_masks:
        from .cases import with_brain_masks

        cases = with_brain_masks(cases, options.brain_masks)
    plan = plan_cases(cases, options.input, job.settings["suffix"], job.region, job.units)
    if options.input.exists() and job.modality.series:
        try:
            from .io.dicom import find_series

            series, passed = plan_series(find_series(options.input), options.series or job.modality.series, job.units)
            plan += series
        except (ImportError, DatasetError) as error:
            logger.debug("no DICOM: %s", error)
    if not plan:
        raise nothing or DatasetError(options.input, "nothing to map in it", "Check the folder, or --series")
    return plan, passed


def _job(options: argparse.Namespace):
    """The job of the config files and settings given."""
    from . import default_config
    from .batch.job import Job

    settings = _settings(options.set)
    if options.suffix:
        settings["suffix"] = options.suffix
    if options.threads:
        settings["threads"] = options.threads
    try:
        return Job([default_config(), *options.config], **settings)
    except Exception as error:
        known = cause_of(error)
        raise known or FlipmapError("the config", " ".join(str(error).split()), "Check --config and --set") from error


def _settings(given: Sequence[str]) -> dict[str, object]:
    """``ID=VALUE`` → id → value, read as JSON where it is any."""
    import json

    settings: dict[str, object] = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator:
            raise FlipmapError(f"--set {text}", "there is no = in it", "Write --set threshold=3")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


def _run_plan(plan, passed, job, options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .batch.run import TABLE, run_batch

    started = time.strftime("%Y%m%dT%H%M%S")
    with _logging(options, options.output / "logs" / f"{started}_{os.getpid()}.log"):
        bar = tqdm(total=len(plan), unit="scan", disable=True if options.quiet else None)

        def told(record) -> None:
            bar.update()
            if record.status == "failed":
                logger.error("%s: FAILED %s. %s", record.name, record.reason, record.remedy)
            else:
                logger.info("%s: %s, case score %s", record.name, record.status, record.case_score)

        with bar:
            records = run_batch(
                plan,
                job,
                options.output,
                options.jobs,
                options.overwrite,
                options.timeout,
                told,
                passed,
                options.viewer,
            )
        failed = sum(record.status == "failed" for record in records)
        logger.info("%d of %d done, %d failed: %s", len(records) - failed, len(plan), failed, options.output / TABLE)
    return EXIT_CODES["some case failed" if failed else "all good"]


class _logging:
    """Lines to the terminal, and all of them to a file of the run."""

    def __init__(self, options: argparse.Namespace, path: Path) -> None:
        level = logging.DEBUG if options.verbose else logging.ERROR if options.quiet else logging.INFO
        self.terminal, self.path = logging.StreamHandler(), path
        self.terminal.setLevel(level)
        self.loggers = [logging.getLogger("flipmap"), logging.getLogger("bundle")]

    def __enter__(self) -> _logging:
        from .errors import OutputError

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = logging.FileHandler(self.path, encoding="utf-8")
        except OSError as error:
            raise OutputError(self.path, f"cannot be written ({error.strerror})", "Allow writing there") from error
        self.file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for log in self.loggers:
            log.setLevel(logging.DEBUG)
            log.propagate = False
            for handler in (self.terminal, self.file):
                log.addHandler(handler)
        return self

    def __exit__(self, *_) -> None:
        for log in self.loggers:
            log.propagate = True
            for handler in (self.terminal, self.file):
                log.removeHandler(handler)
        self.file.close()


if __name__ == "__main__":
    entry()
