"""A run's metrics over HTTP: the sum of what its processes wrote, and what its directory states.

Both are files, so whoever serves them says the same: the coordinator of a run, or `ukd metrics serve`.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ukd_dist.discovery import TARGETS, naming_target
from ukd_dist.errors import ResourceError
from ukd_dist.metrics import CATALOGUE, Committed

# Text that takes longer to make than this is answered as it was last, and made anew behind that.
PATIENCE_SECONDS = 0.02
_log = logging.getLogger(__name__)
LARGEST_SHARE = 0.1  # of a core, for making it anew
OLDEST_SECONDS = 60.0  # what was made longer ago is no answer


@dataclass(frozen=True)
class _Sample:
    family: str
    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True)
class _Snapshot:
    """What one process wrote last."""

    written_ns: int
    families: tuple[tuple[str, str, str], ...]
    samples: tuple[_Sample, ...]


class RunCollector(Collector):
    """The sum of all snapshots under `<root>/metrics`, and what the run directory states.

    Args:
        directory: `<root>/metrics`.
        run: The experiment's name.
        read_committed: Reads what the run directory states now.
    """

    def __init__(self, directory: Path, run: str, read_committed: Callable[[], Iterable[Committed]]) -> None:
        self._directory = directory
        self._run = run
        self._read_committed = read_committed
        self._snapshots: dict[Path, _Snapshot] = {}

    def collect(self) -> Iterator[Metric]:
        """Yields each metric family once."""
        self._snapshots = {path: self._read(path) for path in self._directory.glob("*.prom")}
        yield from _sum(sorted(self._snapshots.values(), key=lambda snapshot: snapshot.written_ns))
        for committed in self._read_committed():
            definition = CATALOGUE[committed.name]
            family = Metric(committed.name.removesuffix("_total"), definition.help, definition.kind)
            for value, number in committed.values.items():
                own = dict.fromkeys(definition.labels, value)
                labels = {"run": self._run, "stage": committed.stage, "rank": "0", **own}
                family.add_sample(committed.name, labels, float(number))
            yield family

    def _read(self, path: Path) -> _Snapshot:
        """A snapshot, parsed only where it is not as it was."""
        before, written_ns = self._snapshots.get(path), path.stat().st_mtime_ns
        return before if before is not None and before.written_ns == written_ns else _parse(path, written_ns)


def merge_snapshots(paths: Iterable[Path]) -> list[Metric]:
    """Families of several snapshots as one: counts are summed, of gauges the latest in order holds."""
    return _sum(_parse(path, 0) for path in paths)


def _parse(path: Path, written_ns: int) -> _Snapshot:
    # `_created` is of one process, and no family of its own in OpenMetrics.
    parsed = [
        family
        for family in text_string_to_metric_families(path.read_text())
        if not family.name.endswith("_created")
    ]
    return _Snapshot(
        written_ns,
        tuple((family.name, family.documentation, family.type) for family in parsed),
        tuple(
            _Sample(family.name, sample.name, tuple(sorted(sample.labels.items())), sample.value)
            for family in parsed
            for sample in family.samples
        ),
    )


def _sum(snapshots: Iterable[_Snapshot]) -> list[Metric]:
    families: dict[str, Metric] = {}
    values: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
    for snapshot in snapshots:
        for name, documentation, kind in snapshot.families:
            families.setdefault(name, Metric(name, documentation, kind))
        for sample in snapshot.samples:
            key = (sample.family, sample.name, sample.labels)
            before = 0.0 if families[sample.family].type == "gauge" else values.get(key, 0.0)
            values[key] = before + sample.value
    for (family, name, labels), value in values.items():
        families[family].add_sample(name, dict(labels), value)
    return list(families.values())


@dataclass(frozen=True)
class _Text:
    content: bytes
    made: float
    seconds: float


class Page:
    """A run's metrics as text, in the formats that are asked for.

    Making it is quick for a few members, and it is then made for each request. Where it takes long, a request
    gets the last one, and another is made behind it, so that an answer takes milliseconds and no more than a
    tenth of a core is spent.

    Args:
        collector: Gives the metric families.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._texts: dict[str, _Text] = {}
        self._making = threading.Lock()

    def answer(self, accept: str) -> tuple[bytes, str]:
        """The text, and its content type, that a request's Accept header asks for."""
        _, content_type = choose_encoder(accept)
        text = self._texts.get(content_type)
        age = math.inf if text is None else time.monotonic() - text.made
        if text is None or text.seconds < PATIENCE_SECONDS or age > OLDEST_SECONDS:
            with self._making:
                text = self._make(accept)
        elif age > text.seconds / LARGEST_SHARE and self._making.acquire(blocking=False):
            threading.Thread(target=self._make_behind, args=(accept,), daemon=True).start()
        return text.content, content_type

    def _make(self, accept: str) -> _Text:
        encode, content_type = choose_encoder(accept)
        began = time.monotonic()
        content = encode(self._collector)
        text = self._texts[content_type] = _Text(content, time.monotonic(), time.monotonic() - began)
        return text

    def _make_behind(self, accept: str) -> None:
        try:
            self._make(accept)
        except Exception:  # noqa: BLE001 - whoever asks next is told: nothing is kept to answer with
            self._texts.clear()
        finally:
            self._making.release()


@contextmanager
def exporting(
    directory: Path,
    run: str,
    port: int | None,
    read_committed: Callable[[], Iterable[Committed]],
    discovered: bool = True,
) -> Iterator[int | None]:
    """Serve a run's metrics over HTTP; yields the port, or None where `port` is None.

    Args:
        directory: `<root>/metrics`.
        run: The experiment's name.
        port: 0 for any free one.
        read_committed: Reads what the run directory states now.
        discovered: Name the address in `<root>/metrics/targets.json`, as long as it is served.

    Raises:
        ResourceError: The port is taken.
    """
    if port is None:
        yield None
        return
    page = Page(RunCollector(directory, run, read_committed))
    try:
        server = _Server(("", port), page)
    except OSError as error:
        raise ResourceError(
            f"metrics port {port}: {error.strerror}",
            expected="a port that is free",
            action="choose another, or 0 for any free one",
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"{socket.gethostname()}:{server.server_port}"
    try:
        with naming_target(directory / TARGETS, run, address) if discovered else nullcontext():
            yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], page: Page) -> None:
        super().__init__(address, _Handler)
        self.page = page


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        try:
            content, content_type = self.server.page.answer(self.headers.get("Accept", ""))
        except Exception as error:  # noqa: BLE001 - a damaged file: said, and asked for again by the next scrape
            _log.exception("metrics were not served")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).partition("\n")[0])
            return
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing: a scrape is no event."""
