"""Archives of DIV2K from its authors' server: fetched with resume, checked, unpacked into the official layout."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .._errors import InputError
from .._files import check_folder, open_regular, replacing

DIV2K_URL = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
ATTEMPTS = 5
"""Connections in a row that may break without one new byte."""

_CHUNK = 1 << 20
_CONNECT_TIMEOUT = 5.0
"""Seconds for each address of a server."""
_TIMEOUT = 30.0
"""Seconds without one new byte."""
_MEMBER = re.compile(r"\w[\w.-]*")
"""No name with a drive or a backslash, which Windows would follow."""

OnBytes = Callable[[str, int, int], None]
"""Told what is done, and how many bytes of how many."""


@dataclass(frozen=True)
class Archive:
    """A zip file, and the folder of the DIV2K layout that it holds."""

    name: str
    size: int
    """Bytes."""
    sha256: str
    folder: str


# Sizes and hashes as TensorFlow Datasets records them (tensorflow_datasets/datasets/div2k/checksums.tsv).
DIV2K = (
    Archive(
        "DIV2K_train_HR.zip",
        3530603713,
        "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
        "DIV2K_train_HR",
    ),
    Archive(
        "DIV2K_valid_HR.zip",
        448993893,
        "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
        "DIV2K_valid_HR",
    ),
    Archive(
        "DIV2K_train_LR_bicubic_X2.zip",
        925390592,
        "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850",
        "DIV2K_train_LR_bicubic/X2",
    ),
    Archive(
        "DIV2K_valid_LR_bicubic_X2.zip",
        117763600,
        "60eed9875c697df51204aa579e2a699e1d5215095788a097ff54dd17e2664d57",
        "DIV2K_valid_LR_bicubic/X2",
    ),
    Archive(
        "DIV2K_train_LR_bicubic_X3.zip",
        427847282,
        "ad5c8e5507e2765823d3c2c5bd0934842efcd487c5370604c224090898b3163a",
        "DIV2K_train_LR_bicubic/X3",
    ),
    Archive(
        "DIV2K_valid_LR_bicubic_X3.zip",
        54513392,
        "04b9a2ed3b4a0715d3924d3ae8514830c3328fac8d30512ce716d6f419e052a3",
        "DIV2K_valid_LR_bicubic/X3",
    ),
    Archive(
        "DIV2K_train_LR_bicubic_X4.zip",
        246914039,
        "f006b837f4eb52b82909aa01478e6d6d199eefce932179491d0c9dbb706dde3a",
        "DIV2K_train_LR_bicubic/X4",
    ),
    Archive(
        "DIV2K_valid_LR_bicubic_X4.zip",
        31505881,
        "a50a5d1c4b88de4e8d300d8fb2b904c52fe93b2b298a4899697760d7cbb6d553",
        "DIV2K_valid_LR_bicubic/X4",
    ),
)


def download(
    archive: Archive, root: Path, *, url: str = DIV2K_URL, keep: bool = False, on_bytes: OnBytes = lambda *_: None
) -> bool:
    """Have the folder of ``archive`` in ``root``; False if it was there already.

    The zip is fetched beside it (a broken one goes on where it stopped, in the next call as well), its size and
    SHA-256 are compared, and it is unpacked and, without ``keep``, removed. The folder appears only when complete.
    Raises InputError at once if there is no way to the server; and if it does not answer or has another file, if the
    disk is too small, or if a member's name leads out of the folder.
    """
    folder = root / archive.folder
    if folder.is_dir():
        return False
    check_folder(root)
    path = root / archive.name
    for file in (path, _part(path)):
        if file.exists() and not file.is_file():
            raise InputError(f"{file} is not a regular file: remove it")
    if not path.exists():
        have = _size(_part(path))
        free = shutil.disk_usage(root).free
        needed = 2 * archive.size - have
        if free < needed:
            raise InputError(f"{root} has {free / 1e9:.1f} GB free, {archive.name} needs {needed / 1e9:.1f} GB")
        _fetch(url + archive.name, _part(path), archive, on_bytes)
    _check(path, archive, on_bytes)
    _unpack(path, folder, archive, on_bytes)
    if not keep:
        path.unlink()
    return True


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch(url: str, part: Path, archive: Archive, on_bytes: OnBytes) -> None:
    """Bring ``part`` to its full size, then give it its name; several connections may break on the way."""
    opener = _opener(url)
    failed, reached = 0, False
    while (have := _size(part)) < archive.size:
        try:
            _fetch_some(opener, url, part, have, archive, on_bytes)
            reason, reached = "the connection broke", True
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise InputError(f"{url}: the server answers {error.code} {error.reason}") from error
            reason, reached = f"the server answers {error.code} {error.reason}", True
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, (ValueError, http.client.InvalidURL)) and not isinstance(error, OSError):
                raise _not_an_address(url, error) from error
            cause = getattr(error, "reason", None) or error
            reason = str(getattr(cause, "strerror", None) or cause)
            if isinstance(cause, _NoConnectionError) and not (reached or _size(part) > have):
                raise InputError(f"{url}: cannot connect ({reason}): check the network and --url") from error
            reached = reached or not isinstance(cause, _NoConnectionError)
        failed = 0 if _size(part) > have else failed + 1
        if failed == ATTEMPTS:
            raise InputError(f"{url}: {reason}; {_size(part)} bytes are kept in {part}: run this again to go on")
        if failed:
            time.sleep(min(2.0**failed, 30.0))
    if _size(part) > archive.size:
        part.unlink()
        raise InputError(f"{url} is larger than the {archive.size} bytes it should have: removed")
    os.replace(part, part.with_name(archive.name))


class _NoConnectionError(OSError):
    """There is no way to the server: no such name, refused, silent, or a proxy or certificate that is not right."""


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Opener of ``url`` with a short timeout to connect and a longer one to answer; InputError for a bad address."""
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("it begins with http:// or https:// and the name of a server")
    except ValueError as error:
        raise _not_an_address(url, error) from error

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(_Http, request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(_Https, request)

    return urllib.request.build_opener(Http, Https)


def _not_an_address(url: str, why: Exception) -> InputError:
    return InputError(f"{url[:200]!r} is not an address to fetch from ({why})")


class _Http(http.client.HTTPConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class _Https(http.client.HTTPSConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


def _connect(connection: http.client.HTTPConnection, connect: Callable[[], None]) -> None:
    answer, connection.timeout = connection.timeout, _CONNECT_TIMEOUT
    try:
        connect()
    except (OSError, http.client.HTTPException) as error:
        raise _NoConnectionError(str(getattr(error, "strerror", None) or error)) from error
    connection.sock.settimeout(answer)


def _fetch_some(
    opener: urllib.request.OpenerDirector, url: str, part: Path, have: int, archive: Archive, on_bytes: OnBytes
) -> None:
    """Append what one connection gives to ``part``; begin anew if the server cannot send a part of a file."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with opener.open(request, timeout=_TIMEOUT) as answer:
        if have and not (answer.status == 206 and answer.headers["Content-Range"].startswith(f"bytes {have}-")):
            have = 0
        with open(part, "ab" if have else "wb") as file:
            while have <= archive.size and (chunk := answer.read(_CHUNK)):
                file.write(chunk)
                have += len(chunk)
                on_bytes(f"fetch {archive.name}", have, archive.size)


def _check(path: Path, archive: Archive, on_bytes: OnBytes) -> None:
    found, done = hashlib.sha256(), 0
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
            done += len(chunk)
            on_bytes(f"check {archive.name}", done, archive.size)
    if done != archive.size or found.hexdigest() != archive.sha256:
        path.unlink()
        raise InputError(f"{path}: {done} bytes, not the archive its authors published: removed, run this again")


def _unpack(path: Path, folder: Path, archive: Archive, on_bytes: OnBytes) -> None:
    """The images in the zip at ``path`` as ``folder``, all or none."""
    try:
        with zipfile.ZipFile(path) as file, replacing(folder, directory=True) as fresh:
            members = [member for member in file.infolist() if not member.is_dir()]
            total, done = sum(member.file_size for member in members), 0
            for member in members:
                inside = PurePosixPath(member.filename)
                if str(inside.parent) != archive.folder or not _MEMBER.fullmatch(inside.name):
                    raise InputError(f"{path}: {member.filename!r} does not lie in {archive.folder}")
                with file.open(member) as packed, open(fresh / inside.name, "wb") as image:
                    shutil.copyfileobj(packed, image, _CHUNK)
                done += member.file_size
                on_bytes(f"unpack {archive.name}", done, total)
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise InputError(f"{path} cannot be unpacked ({error}): remove it and run this again") from error
