# SPDX-License-Identifier: Apache-2.0
"""A DICOM node: C-ECHO and C-STORE from those who may, mapping, and C-STORE of the results."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..batch.case import run_case
from ..batch.plan import plain, plan_series
from ..errors import FlipmapError, OutputError
from ..io.dicom import find_series
from ..io.dicom_quiet import quiet
from ..pipeline.dataset import explain
from ..pipeline.job import Job
from .replaced import mark_as_replacing
from .results import collect_results
from .spool import INSTANCES, MOST_TRIES, Spool

__all__ = ["Listener", "Peer"]

logger = logging.getLogger("flipmap")

CONNECTIONS = 250  # at once: those that say nothing end by themselves, and keep nobody out meanwhile
CONNECT = 30.0  # seconds until nobody answers
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000


@dataclass(frozen=True)
class Peer:
    """A DICOM node by AE title, and, where it is to be reached, port.

    Attributes:
        title: AE title.
        host: name or address.
        port: 0 for one that only sends.
    """

    title: str
    host: str
    port: int = 0

    @classmethod
    def of(cls, text: str, with_port: bool) -> Peer:
        """``AE@host:port``, or ``AE@host`` without a port.

        Raises:
            FlipmapError: when it is no such text.
        """
        pattern = r"([^@]{1,16})@([^@:]+):(\d{1,5})" if with_port else r"([^@]{1,16})@([^@:]+)"
        found = re.fullmatch(pattern, text)
        if not found:
            raise FlipmapError(text, "no DICOM node", f"Write AE@host{':port' * with_port}")
        return cls(found[1], found[2], int(found[3]) if with_port else 0)

    def __str__(self) -> str:
        return f"{self.title}@{self.host}" + f":{self.port}" * bool(self.port)


class Listener:
    """Takes series in, maps them one after the other, and sends the results on. `start` begins it, `stop` ends it.

    Args:
        job: loaded once.
        spool: where series wait.
        title: its own AE title.
        port: to listen on; 0 for any that is free, see ``port``.
        allowed: who may send: AE titles and addresses.
        receiver: where the results go.
        quiet: seconds without a new instance after which a series is complete.
        retry: seconds between tries to reach the receiver.
        keep: seconds after which a series that is done is forgotten; until then further instances of it join it.
        keep_failed: the same of one that could not be mapped.
        host: address to listen on; all by default.
        rule: regular expression of the descriptions of series to map; by default that of the modality.
        derived: take derived series, too.

    Raises:
        ImportError: without pynetdicom.
    """

    def __init__(
        self,
        job: Job,
        spool: Spool,
        title: str,
        port: int,
        allowed: Sequence[Peer],
        receiver: Peer,
        quiet: float = 10.0,
        retry: float = 30.0,
        keep: float = 86400.0,
        keep_failed: float = 7 * 86400.0,
        host: str = "",
        rule: str | None = None,
        derived: bool = False,
    ) -> None:
        self.job, self.spool, self.title, self.receiver = job, spool, title, receiver
        self.allowed = {(peer.title, address) for peer in allowed for address in _addresses(peer.host)}
        self.address, self.quiet, self.retry = (host, port), quiet, retry
        self.keep, self.keep_failed = keep, keep_failed
        self.rule, self.derived = rule or job.series, derived
        self.port = port
        self._ending = threading.Event()
        self._server: Any = None
        self._threads: list[threading.Thread] = []
        self._coming: dict[int, set[str]] = {}  # association → series that it has brought
        self._labels: dict[str, str] = {}  # folder of a series → its name in the log
        self._later: dict[str, float] = {}  # folder of a series that the disk had no room for → when to try again

    def start(self) -> None:
        """Listen, map and send, each in threads of its own.

        Raises:
            FlipmapError: when the port cannot be had, or another process has the spool.
            OutputError: when the spool cannot be written.
        """
        from pynetdicom import AE, AllStoragePresentationContexts, evt
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

        node = AE(ae_title=self.title)
        node.require_called_aet = True
        node.maximum_associations = CONNECTIONS
        for context in AllStoragePresentationContexts:
            node.add_supported_context(str(context.abstract_syntax), _syntaxes())
        node.add_supported_context(Verification)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_ABORTED, self._broken_off),
            (evt.EVT_CONN_CLOSE, self._broken_off),
        ]
        self.spool.open()
        try:
            self._server = node.start_server(self.address, block=False, evt_handlers=handlers)
        except OSError as error:
            self.spool.close()
            raise FlipmapError(
                f"port {self.address[1]}", f"cannot be had ({error.strerror})", "Give another"
            ) from error
        self.port = self._server.socket.getsockname()[1]
        for work in (self._map_what_is_complete, self._send_results):
            thread = threading.Thread(target=self._over_and_over, args=(work,), name=work.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)
        logger.info("%s listens on port %d; results go to %s", self.title, self.port, self.receiver)

    def stop(self) -> None:
        """Take nothing more in; what has begun is done again at the next start."""
        self._ending.set()
        if self._server is not None:
            self._server.shutdown()
        for thread in self._threads:
            thread.join(timeout=10)
        if not any(thread.is_alive() for thread in self._threads):  # else the lock is held until the process ends
            self.spool.close()

    # Taking in

    def _on_request(self, event: Any) -> None:
        asker = event.assoc.requestor
        # Before the negotiation, which sets the title from the same primitive.
        title = str(asker.primitive.calling_ae_title).strip()
        if (title, asker.address) not in self.allowed:
            logger.warning("refused: %s at %s is not among those allowed", title, asker.address)
            event.assoc.acse.send_reject(0x01, 0x01, 0x03)  # permanent: calling AE title not recognised
            event.assoc.kill()

    @staticmethod
    def _on_echo(event: Any) -> int:
        return SUCCESS

    def _on_store(self, event: Any) -> int:
        try:
            with quiet():
                dataset = event.dataset
            series, instance = str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID)
            content = event.encoded_dataset()  # as it came: nothing of it is written anew
        except Exception as error:  # whatever a sender may send
            logger.error("an instance that cannot be read: %s", type(error).__name__)
            return CANNOT_UNDERSTAND
        try:
            self.spool.add(series, instance, content)
        except OutputError as error:
            logger.error("%s", error)
            return OUT_OF_RESOURCES  # the sender keeps it, and tries again
        name = self.spool.folder(series).name
        if name not in self._labels:
            self._labels[name] = label_of(dataset)
            logger.info("%s: arrives from %s", self._labels[name], event.assoc.requestor.ae_title)
        self._coming.setdefault(id(event.assoc), set()).add(series)
        return SUCCESS

    def _broken_off(self, event: Any) -> None:
        """An association has ended; if it was not released, what it brought may be half of a series."""
        series = self._coming.pop(id(event.assoc), set())
        if not event.assoc.is_released:
            for one in series:
                logger.warning("%s: its sender broke off; waited for", self._label(self.spool.folder(one)))
                self.spool.hold(one, self.quiet)

    # Mapping

    def _map_what_is_complete(self) -> None:
        for name in self.spool.forget(self.keep, self.keep_failed):
            logger.info("%s: kept long enough, removed from the spool", self._labels.pop(name, name))
        for folder in self.spool.ready(self.quiet):
            if self._ending.is_set():
                return
            if self._later.get(folder.name, 0.0) <= time.monotonic():
                self._map_or_fail(folder)

    def _map_or_fail(self, folder: Path) -> None:
        """Map a series; whatever goes wrong, it waits or has failed with the reason, and the others go on."""
        if self.spool.tries(folder) >= MOST_TRIES:
            self._fail(folder, None, f"flipmap ended {MOST_TRIES} times while it was mapped. Look at its memory")
            return
        try:
            with self.spool.working_copy(folder) as work:
                try:
                    self._map(folder, work)
                except OutputError:
                    raise
                except Exception as error:
                    known = explain(error, {"name": folder.name, "image": folder.name})
                    self._fail(folder, work, f"{known.reason}. {known.remedy}")
        except OutputError as error:  # no room, which may come again
            logger.error("%s: %s; tried again in %g s", self._label(folder), error, self.retry)
            self._later[folder.name] = time.monotonic() + self.retry

    def _fail(self, folder: Path, work: Path | None, reason: str) -> None:
        if self.spool.fail(folder, work, reason):
            logger.error("%s: not mapped: %s", self._label(folder), reason)

    def _map(self, folder: Path, work: Path) -> None:
        """Map the images of a series, and leave what is to be sent.

        Raises:
            FlipmapError: when it is not to be mapped, or cannot be.
        """
        planned, skipped = plan_series(find_series(work / INSTANCES, self.derived), self.rule, self.job.units)
        if not planned:
            raise FlipmapError(folder.name, "; ".join(skipped.values()) or "no image in it", "It is not meant for this")
        results = work / "results"
        for number, case in enumerate(planned):  # a series of several echoes or phases is several cases
            output = work / f"output{number}"
            run_case(self.job, case, output)
            collect_results(case, output, results / str(number), self.job.fingerprint)
        if self.spool.was_sent(folder):
            mark_as_replacing(results)
        if self.spool.mapped(folder, work, results):
            logger.info("%s: mapped, %d instances", self._label(folder), len(self.spool.instances(folder)))
        else:
            logger.info("%s: more of it came while it was mapped; mapped again with all of it", self._label(folder))

    def _label(self, folder: Path) -> str:
        """The one name of a series in the log."""
        if folder.name not in self._labels:
            self._labels[folder.name] = label_in(folder / INSTANCES) or folder.name
        return self._labels[folder.name]

    # Sending

    def _send_results(self) -> None:
        left = False
        for folder in self.spool.series("results"):
            outgoing = None if self._ending.is_set() else self.spool.to_send(folder)
            if outgoing is None:
                continue
            arrived = self._send(outgoing.files)
            if arrived:
                self.spool.sent(folder, outgoing)
                logger.info("%s: %d results sent to %s", self._label(folder), len(outgoing.files), self.receiver.title)
                continue
            left = True
            if arrived is None:
                logger.error("%s cannot be reached; tried again in %g s", self.receiver, self.retry)
                break
            logger.error("%s: not taken by %s; tried again in %g s", self._label(folder), self.receiver, self.retry)
        if left:
            self._ending.wait(self.retry)

    def _send(self, files: Sequence[Path]) -> bool | None:
        """Whether all have arrived, None where nobody answers. Their UIDs follow from their content, so that a file
        that is sent twice is the same.
        """
        import pydicom
        from pynetdicom import AE

        if not files:
            return True  # sent, and then the process ended
        try:
            node, datasets = AE(ae_title=self.title), [pydicom.dcmread(path) for path in files]
        except FileNotFoundError:
            return False  # a new round of them has taken their place
        node.connection_timeout = CONNECT
        for kind, syntax in {(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}:
            node.add_requested_context(kind, syntax)
        link = node.associate(self.receiver.host, self.receiver.port, ae_title=self.receiver.title)
        if not link.is_established:
            return None
        try:
            taken = {context.abstract_syntax for context in link.accepted_contexts}
            if not taken:
                return False
            for kind in {dataset.SOPClassUID for dataset in datasets} - taken:
                logger.warning("%s takes no %s: left out", self.receiver, kind.name)
            answers = [link.send_c_store(dataset) for dataset in datasets if dataset.SOPClassUID in taken]
            return all(answer and answer.Status in (SUCCESS, 0xB000, 0xB006, 0xB007) for answer in answers)
        except (ValueError, RuntimeError, OSError) as error:
            logger.error("not sent: %s", error)
            return False
        finally:
            link.release()

    def _over_and_over(self, work: Callable[[], None]) -> None:
        while not self._ending.is_set():
            try:
                work()
            except Exception:  # whatever it is, the others go on
                logger.exception("%s failed, and is tried again", work.__name__)
                time.sleep(1)
            self._ending.wait(min(1.0, self.quiet / 4))


def label_of(dataset: Any) -> str:
    """What an archive finds a series by: description, accession number and UID; nothing of the patient."""
    tags = {"": "SeriesDescription", "accession ": "AccessionNumber", "UID ": "SeriesInstanceUID"}
    words = [f"{word}{value}" for word, tag in tags.items() if (value := str(dataset.get(tag) or "").strip())]
    return plain(", ".join(words))


def label_in(folder: Path) -> str:
    """`label_of` the first instance in a folder; empty where it cannot be read."""
    import pydicom

    for path in sorted(folder.glob("*.dcm"))[:1]:
        with suppress(Exception):  # whatever a sender may have sent
            return label_of(pydicom.dcmread(path, stop_before_pixels=True, force=True))
    return ""


def _addresses(host: str) -> set[str]:
    """All that a name stands for."""
    import socket

    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise FlipmapError(host, f"no such machine ({error.strerror})", "Give its address in --allow") from error


def _syntaxes() -> list[str]:
    """Transfer syntaxes of images, uncompressed ones first."""
    from pynetdicom import ALL_TRANSFER_SYNTAXES

    return list(ALL_TRANSFER_SYNTAXES)
