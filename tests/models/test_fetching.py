"""Where a checkpoint's file comes from: its place, the cache, or a server, once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ukd_dist.errors import DataError, ResourceError, UsageError
from ukd_dist.models.catalogue import NETWORKS
from ukd_dist.models.fetching import Checkpoint, cached, fetch, find
from ukd_dist.models.pretrained import PRETRAINED, published

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Gives the content, or as much of it as it is told."""

    asked: list[str]
    given = len(CONTENT)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.startswith("/absent"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path.startswith("/chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"400\r\nweights")
            return
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: self.server.given])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def url(server: Server, path: str = "/zoo/NET.pyth") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


def test_a_url_is_fetched_once_and_then_served_by_the_cache(server: Server, cache: Path) -> None:
    place = f"127.0.0.1%3A{server.server_address[1]}/zoo/NET.pyth"
    for _ in range(2):
        checkpoint = find(url(server), "slow_r50")
        assert fetch(checkpoint) == SHA256
        assert checkpoint.path == cache / place
        assert checkpoint.path.read_bytes() == CONTENT
    assert server.asked == ["/zoo/NET.pyth"]
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["NET.pyth"]


def test_files_of_different_urls_never_share_a_place(server: Server) -> None:
    urls = [url(server, path) for path in ("/a/NET.pyth", "/b/NET.pyth", "/a/NET.pyth?dl=0")]
    assert len({cached(one) for one in urls}) == 3


def test_no_url_leads_out_of_the_cache(cache: Path) -> None:
    assert cached("http://host/../../etc/passwd") == cache / "host/etc/passwd"


def test_without_a_network_it_says_which_file_to_put_where(server: Server, cache: Path) -> None:
    closed = url(server)
    server.server_close()
    checkpoint = find(closed, "slow_r50")
    with pytest.raises(ResourceError) as failed:
        fetch(checkpoint)
    told = str(failed.value)
    assert told.startswith(f"{closed} cannot be fetched: ")
    assert told.endswith(
        f"; expected a network, or the file at {checkpoint.path}; "
        "fetch it where there is a network, put it there, and run again"
    )
    checkpoint.path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.path.write_bytes(CONTENT)
    assert fetch(checkpoint) == SHA256


def test_what_is_not_there_or_cut_off_leaves_nothing(server: Server, cache: Path) -> None:
    with pytest.raises(
        ResourceError, match=r"absent.pyth cannot be fetched: .*Not Found; expected a network"
    ):
        fetch(find(url(server, "/absent.pyth"), "slow_r50"))
    server.given = 700
    with pytest.raises(ResourceError, match=r"NET.pyth cannot be fetched: .*700.*; expected a network"):
        fetch(find(url(server), "slow_r50"))
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_url_that_is_none_is_named() -> None:
    for wrong in ("http://host:port/NET.pyth", "http://127.0.0.1/a b.pyth"):
        with pytest.raises(ResourceError) as refused:
            fetch(find(wrong, "slow_r50"))
        assert str(refused.value).startswith(f"{wrong} cannot be fetched: ")


def test_an_answer_that_ends_between_its_chunks_is_named(server: Server, cache: Path) -> None:
    with pytest.raises(ResourceError, match=r"chunked.pyth cannot be fetched: IncompleteRead"):
        fetch(find(url(server, "/chunked.pyth"), "slow_r50"))
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_another_file_than_the_published_one_is_refused(server: Server) -> None:
    checkpoint = find(url(server), "slow_r50")
    known = Checkpoint(checkpoint.path, checkpoint.url, SHA256[:8], "somebody")
    assert fetch(known) == SHA256
    other = Checkpoint(checkpoint.path, checkpoint.url, "5c933ae1", "somebody")
    with pytest.raises(DataError) as refused:
        fetch(other)
    assert str(refused.value) == (
        f"{other.path} has sha256 {SHA256}; expected 5c933ae1... by {other.url}; remove it, and run again"
    )


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_file_is_taken_where_it_is(prefix: str, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "own.pth"
    path.write_bytes(CONTENT)
    checkpoint = find(f"{prefix}{path}", "slow_r50")
    assert (checkpoint.path, fetch(checkpoint)) == (path, SHA256)
    assert not cache.exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^there is no checkpoint .*/own.pth; expected .*; correct init$"):
        fetch(find(str(tmp_path / "own.pth"), "slow_r50"))


def test_kinetics400_means_the_published_file_of_a_network() -> None:
    checkpoint = find("kinetics400", "ircsn_r152")
    assert checkpoint.url.endswith(f"-{checkpoint.sha256}.pth")
    assert checkpoint.sha256 == "5c933ae1"
    assert checkpoint.source == "kinetics400 (MMAction2)"
    assert checkpoint.path == cached(published("ircsn_r152").url)


def test_a_network_without_public_weights_says_which_have_them() -> None:
    with pytest.raises(UsageError) as refused:
        published("slowfast_tiny")
    told = str(refused.value)
    assert told.startswith("no public Kinetics-400 weights of slowfast_tiny are known; expected init: none, ")
    assert all(arch in told for arch in PRETRAINED)


def test_every_published_file_is_of_a_network_that_there_is() -> None:
    assert set(PRETRAINED) <= set(NETWORKS)
