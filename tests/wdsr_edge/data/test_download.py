"""Fetching from a local server that breaks, lies and stalls."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wdsr_edge import InputError
from wdsr_edge.data import download
from wdsr_edge.data.download import DIV2K, Archive
from wdsr_edge.images import samples
from wdsr_edge.images.files import read_rgb


def packed(*names: str) -> bytes:
    """A zip of photos under these names."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            image = io.BytesIO()
            Image.fromarray(samples.golden_frame()).save(image, "PNG")
            file.writestr(name, image.getvalue())
    return data.getvalue()


def archive_of(data: bytes) -> Archive:
    return Archive("DIV2K_valid_HR.zip", len(data), hashlib.sha256(data).hexdigest(), "DIV2K_valid_HR")


DATA = packed("DIV2K_valid_HR/0801.png", "DIV2K_valid_HR/0802.png")
ARCHIVE = archive_of(DATA)


@dataclass
class Server:
    """One file, and how badly it is served."""

    data: bytes = DATA
    breaks_at: list[int] = field(default_factory=list)
    """Bytes after which each connection in turn breaks off."""
    ranges: bool = True
    status: list[int] = field(default_factory=list)
    """Answers instead of the file, in turn."""
    asked: list[str | None] = field(default_factory=list)
    """The Range of each request."""
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            if state.status:
                self.send_error(state.status.pop(0))
                return
            match = re.fullmatch(r"bytes=(\d+)-", asked or "")
            first = int(match[1]) if match and state.ranges else 0
            self.send_response(206 if first else 200)
            body = state.data[first:]
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(state.data) - 1}/{len(state.data)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.breaks_at.pop(0)] if state.breaks_at else body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        state.url = f"http://127.0.0.1:{httpd.server_port}/"
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield state
        httpd.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def assert_complete(root: Path) -> None:
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == [
        "DIV2K_valid_HR/0801.png",
        "DIV2K_valid_HR/0802.png",
    ]
    assert read_rgb(root / "DIV2K_valid_HR" / "0801.png").shape == (96, 128, 3)


def test_it_lands_in_the_official_layout_and_is_not_fetched_twice(tmp_path: Path, server: Server) -> None:
    told: list[tuple[str, int, int]] = []
    assert download.download(ARCHIVE, tmp_path, url=server.url, on_bytes=lambda *what: told.append(what))
    assert_complete(tmp_path)
    assert ("fetch DIV2K_valid_HR.zip", len(DATA), len(DATA)) in told
    assert told[-1][1] == told[-1][2]
    assert not download.download(ARCHIVE, tmp_path, url=server.url)
    assert len(server.asked) == 1


def test_a_connection_that_breaks_half_way_is_taken_up_where_it_stopped(tmp_path: Path, server: Server) -> None:
    server.breaks_at = [len(DATA) // 2, 10]
    assert download.download(ARCHIVE, tmp_path, url=server.url)
    assert server.asked == [None, f"bytes={len(DATA) // 2}-", f"bytes={len(DATA) // 2 + 10}-"]
    assert_complete(tmp_path)


def test_a_later_call_goes_on_as_well(tmp_path: Path, server: Server) -> None:
    server.breaks_at = [1000] + [0] * download.ATTEMPTS
    with pytest.raises(InputError, match=r"1000 bytes are kept.*run this again"):
        download.download(ARCHIVE, tmp_path, url=server.url)
    assert [path.name for path in tmp_path.iterdir()] == ["DIV2K_valid_HR.zip.part"]
    assert download.download(ARCHIVE, tmp_path, url=server.url)
    assert server.asked[-1] == "bytes=1000-"
    assert_complete(tmp_path)


def test_a_server_without_ranges_is_asked_for_all_of_it_again(tmp_path: Path, server: Server) -> None:
    server.ranges, server.breaks_at = False, [1000]
    assert download.download(ARCHIVE, tmp_path, url=server.url)
    assert_complete(tmp_path)


def test_a_busy_server_is_asked_again(tmp_path: Path, server: Server) -> None:
    server.status = [503, 429, 500]
    assert download.download(ARCHIVE, tmp_path, url=server.url)
    assert_complete(tmp_path)


def test_a_file_that_is_not_there_is_said_at_once(tmp_path: Path, server: Server) -> None:
    server.status = [404]
    with pytest.raises(InputError, match=r"DIV2K_valid_HR.zip: the server answers 404"):
        download.download(ARCHIVE, tmp_path, url=server.url)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/", "Connection refused"),
        ("https://127.0.0.1:9/", "Connection refused"),
        ("http://no-such-host.invalid/", "[Nn]ame"),
    ],
)
def test_no_way_to_a_server_is_said_at_once(tmp_path: Path, url: str, reason: str) -> None:
    """One attempt, with what a call fetched before kept."""
    (tmp_path / "DIV2K_valid_HR.zip.part").write_bytes(DATA[:1000])
    with pytest.raises(InputError, match=rf"{url}DIV2K_valid_HR.zip: cannot connect \(.*{reason}.*\): check") as raised:
        download.download(ARCHIVE, tmp_path, url=url)
    assert "\n" not in str(raised.value)
    assert (tmp_path / "DIV2K_valid_HR.zip.part").read_bytes() == DATA[:1000]


def test_a_server_that_is_silent_is_waited_for_a_short_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def connect(address: tuple[str, int], timeout: float, *more: object, **options: object) -> socket.socket:
        asked.append((address[0], timeout))
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(InputError, match=r"cannot connect \(timed out\)"):
        download.download(ARCHIVE, tmp_path, url="http://192.0.2.1/")
    assert asked == [("192.0.2.1", download._CONNECT_TIMEOUT)]
    assert download._CONNECT_TIMEOUT <= 5


@pytest.mark.parametrize("kind", ["refused", "no tunnel"])
def test_a_proxy_that_does_not_work(tmp_path: Path, server: Server, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Server does not know CONNECT, and answers 501."""
    monkeypatch.setenv("https_proxy", server.url if kind == "no tunnel" else "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(InputError, match=r"cannot connect \((Tunnel connection failed: 501|Connection refused)"):
        download.download(ARCHIVE, tmp_path, url="https://example.invalid/")


def test_a_certificate_that_is_not_right(tmp_path: Path, server: Server) -> None:
    """Nor is there one."""
    with pytest.raises(InputError, match=r"cannot connect \(.*SSL"):
        download.download(ARCHIVE, tmp_path, url=server.url.replace("http:", "https:"))


def test_a_server_that_goes_away_is_tried_again(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there before, so it may come back."""
    server.breaks_at = [1000]
    real, refusals = socket.create_connection, [False, True, True, False]

    def connect(*arguments: Any, **options: Any) -> socket.socket:
        if refusals.pop(0):
            raise ConnectionRefusedError(111, "Connection refused")
        return real(*arguments, **options)

    monkeypatch.setattr(socket, "create_connection", connect)
    assert download.download(ARCHIVE, tmp_path, url=server.url)
    assert_complete(tmp_path)


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://127.0.0.1/", "file:///etc/", "http:/", "http://a:0/", "http://[::1/", "http://a:b/", "http:///x/"],
)
def test_what_is_not_an_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="is not an address to fetch from"):
        download.download(ARCHIVE, tmp_path, url=url)


@pytest.mark.parametrize("name", ["DIV2K_valid_HR.zip", "DIV2K_valid_HR.zip.part"])
def test_a_pipe_in_place_of_the_archive(tmp_path: Path, server: Server, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is not a regular file"):
        download.download(ARCHIVE, tmp_path, url=server.url)


@pytest.mark.parametrize("change", ["other bytes", "longer"])
def test_another_file_is_refused_and_removed(tmp_path: Path, server: Server, change: str) -> None:
    server.data = DATA[:-1] + b"x" if change == "other bytes" else DATA + b"x" * 100
    with pytest.raises(InputError, match="removed"):
        download.download(ARCHIVE, tmp_path, url=server.url)
    assert not any(tmp_path.iterdir())


NAMES = [r"DIV2K_valid_HR/..\..\0801.png", "DIV2K_valid_HR/C:0801.png", "DIV2K_valid_HR/.."]


@pytest.mark.parametrize("name", [*NAMES, "../0801.png", "DIV2K_valid_HR/../../0801.png", "/tmp/0801.png", "0801.png"])
def test_a_member_outside_of_the_folder_is_refused(tmp_path: Path, server: Server, name: str) -> None:
    server.data = packed("DIV2K_valid_HR/0801.png", name)
    with pytest.raises(InputError, match="does not lie in DIV2K_valid_HR"):
        download.download(archive_of(server.data), tmp_path / "root", url=server.url)
    assert {path.name for path in tmp_path.rglob("*")} == {"root", "DIV2K_valid_HR.zip"}


def test_a_damaged_zip_is_refused(tmp_path: Path, server: Server) -> None:
    spoilt = bytearray(DATA)
    spoilt[200] ^= 1
    server.data = bytes(spoilt)
    with pytest.raises(InputError, match="cannot be unpacked"):
        download.download(archive_of(server.data), tmp_path, url=server.url)
    assert not (tmp_path / "DIV2K_valid_HR").exists()


def test_too_small_a_disk_is_said_before_anything_is_fetched(tmp_path: Path, server: Server) -> None:
    with pytest.raises(InputError, match=r"GB free, .* needs"):
        download.download(replace(ARCHIVE, size=10**15), tmp_path, url=server.url)
    assert server.asked == []


def test_the_table_names_every_folder_of_the_layout_once() -> None:
    assert {archive.folder for archive in DIV2K} == {
        f"DIV2K_{split}_{kind}"
        for split in ("train", "valid")
        for kind in ("HR", *(f"LR_bicubic/X{scale}" for scale in (2, 3, 4)))
    }
    for archive in DIV2K:
        assert archive.name == f"{archive.folder.replace('/', '_')}.zip"
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
