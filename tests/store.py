"""A real S3-compatible server on a free port of this machine, and folders in it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow.fs import LocalFileSystem, S3FileSystem, copy_files

START_SECONDS = 60


class Store:
    """Puts files there and takes them away; the code under test reads them by itself."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.files = S3FileSystem(
            access_key="testing",
            secret_key="testing",
            region="us-east-1",
            endpoint_override=endpoint,
            allow_bucket_creation=True,
        )

    def upload(self, folder: Path, place: str) -> str:
        """A folder's files to `bucket/prefix`; returns its URL."""
        self.files.create_dir(place)
        copy_files(str(folder), place, LocalFileSystem(), self.files)
        return f"s3://{place}"

    def put(self, place: str, payload: bytes) -> None:
        with self.files.open_output_stream(place, compression=None) as file:
            file.write(payload)

    def get(self, place: str) -> bytes:
        with self.files.open_input_stream(place, compression=None) as file:
            content: bytes = file.read()
        return content

    def remove(self, place: str) -> None:
        self.files.delete_file(place)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def serving(log: Path, *, check_rights: bool = False) -> Iterator[Store]:
    """A server of its own process; with `check_rights` it refuses keys that it does not know."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    rights = {"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if check_rights else {}
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **rights})
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        yield Store(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait()
