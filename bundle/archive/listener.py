# SPDX-License-Identifier: Apache-2.0
"""A DICOM node: C-ECHO and C-STORE from those who may, mapping, and C-STORE of the results."""

from __future__ import annotations

import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from ..batch.case import run_case
from ..batch.plan import plan_series
from ..errors import FlipmapError, OutputError
from ..io.dicom import find_series
from ..pipeline.dataset import explain
from ..pipeline.job import Job
from .results import collect_results
from .spool import MAPPING, Spool

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
        host: address to listen on; all by default.
        rule: regular expression of the descriptions of series to map; by default that of the modality.

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
        host: str = "",
        rule: str | None = None,
    ) -> None:
        self.job, self.spool, self.title, self.receiver = job, spool, title, receiver
        self.allowed = {(peer.title, address) for peer in allowed for address in _addresses(peer.host)}
        self.address, self.quiet, self.retry, self.keep = (host, port), quiet, retry, keep
        self.rule = rule or job.series
        self.port = port
        self._ending = threading.Event()
        self._server: Any = None
        self._threads: list[threading.Thread] = []
        self._coming: dict[int, set[str]] = {}  # association → series that it has brought

    def start(self) -> None:
        """Listen, map and send, each in threads of its own.

        Raises:
            FlipmapError: when the port cannot be had.
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
        try:
            self._server = node.start_server(self.address, block=False, evt_handlers=handlers)
        except OSError as error:
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
            dataset = event.dataset
            series, instance = str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID)
        except Exception as error:
            logger.error("an instance that cannot be read: %s", error)
            return CANNOT_UNDERSTAND
        try:
            dataset.file_meta = event.file_meta
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            self.spool.add(series, instance, buffer.getvalue())
            self._coming.setdefault(id(event.assoc), set()).add(series)
        except OutputError as error:
            logger.error("%s", error)
            return OUT_OF_RESOURCES  # the sender keeps it, and tries again
        return SUCCESS

    def _broken_off(self, event: Any) -> None:
        """An association has ended; if it was not released, what it brought may be half of a series."""
        series = self._coming.pop(id(event.assoc), set())
        if not event.assoc.is_released:
            for one in series:
                logger.warning("%s: its sender broke off; waited for", one)
                self.spool.hold(one, self.quiet)

    # Mapping

    def _map_what_is_complete(self) -> None:
        self.spool.forget(self.keep)
        self.spool.complete(self.quiet)
        for folder in self.spool.series("ready"):
            if self._ending.is_set():
                return
            try:
                self._map(folder)
            except Exception as error:  # whatever it is, the others go on
                known = explain(error, {"name": folder.name, "image": folder.name})
                logger.error("%s", known)
                self.spool.fail(folder, f"{known.reason}. {known.remedy}")

    def _map(self, folder: Path) -> None:
        """Map a series, and leave what is to be sent.

        Raises:
            FlipmapError: when it is not to be mapped, or cannot be.
        """
        planned, skipped = plan_series(find_series(folder), self.rule, self.job.units)
        if not planned:
            raise FlipmapError(folder.name, "; ".join(skipped.values()) or "no image in it", "It is not meant for this")
        with tempfile.TemporaryDirectory(dir=self.spool.root, prefix=MAPPING) as temporary:
            case, output = planned[0], Path(temporary) / "output"
            run_case(self.job, case, output)
            results = Path(temporary) / "results"
            collect_results(case, output, results, self.job.fingerprint)
            self.spool.mapped(folder, results)
        logger.info("%s: mapped", case.name)

    # Sending

    def _send_results(self) -> None:
        left = False
        for folder in self.spool.series("results"):
            if self._ending.is_set():
                return
            arrived = self._send(sorted(folder.glob("*.dcm")))
            if arrived:
                self.spool.sent(folder)
                logger.info("%s: results sent to %s", folder.name, self.receiver.title)
                continue
            left = True
            if arrived is None:
                logger.error("%s cannot be reached; tried again in %g s", self.receiver, self.retry)
                break
            logger.error("%s: refused by %s; tried again in %g s", folder.name, self.receiver, self.retry)
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
        node, datasets = AE(ae_title=self.title), [pydicom.dcmread(path) for path in files]
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
