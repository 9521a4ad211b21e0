"""The images of a folder, and what is passed over there: what looks like a picture is never left out silently."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .._errors import InputError
from .formats import READ_SUFFIXES, format_of_file, what_to_install

_OTHER_PICTURES = """
    .3fr .arw .cr2 .cr3 .cur .dcm .dds .dib .dng .emf .eps .exr .fff .fit .fits .hdr .icns .ico .iiq .j2c .j2k .jls .jp2
    .jpf .jph .jpm .jpx .jxl .jxr .kdc .mng .mpo .mrw .nef .nrw .orf .pam .pbm .pcd .pct .pcx .pef .pfm .pgm .pic .pnm
    .ppm .psb .psd .qoi .raf .ras .raw .rgb .rw2 .sgi .sr2 .srf .srw .svg .svgz .tga .wbmp .wdp .wmf .x3f .xbm .xcf .xpm
"""
_NOT_READ = frozenset(_OTHER_PICTURES.split())

_log = logging.getLogger("wdsr_edge")


@dataclass
class FoundImages:
    """Content of a folder."""

    images: list[Path] = field(default_factory=list)
    """Sorted by name, those of a folder before those of its subfolders."""
    passed: Counter[str] = field(default_factory=Counter)
    """Number of files passed over, by what they are: a suffix with what to install, or some words."""
    subfolders: int = 0
    """Number of subfolders that were not searched."""
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    """Subfolders that could not be opened, and why."""

    def passed_over(self) -> str:
        """One line that counts the files passed over; empty if there were none."""
        if not self.passed:
            return ""
        total = sum(self.passed.values())
        kinds = ", ".join(f"{number} {what}" for what, number in sorted(self.passed.items()))
        return f"passed over {total} file{'' if total == 1 else 's'}: {kinds}"


def list_images(path: Path) -> list[Path]:
    """The image files in folder ``path``, sorted by name, or ``path`` itself if it is a file.

    Files that look like pictures but are none that can be read are counted in one line on the log. Raises InputError
    if there is no image, or ``path`` is neither a file nor a folder.
    """
    if path.is_file():
        return [path]
    found = find_images(path)
    line = found.passed_over()
    if line and found.images:
        _log.info("%s: %s", path, line)
    return require_images(path, found)


def require_images(path: Path, found: FoundImages) -> list[Path]:
    """The images of folder ``path``; InputError if there are none."""
    if not found.images:
        line = found.passed_over()
        raise InputError(f"{path}: no images ({' '.join(sorted(READ_SUFFIXES))}) in this folder{line and '; '}{line}")
    return found.images


def find_images(folder: Path, *, recursive: bool = False, leave_out: Path | None = None) -> FoundImages:
    """Search ``folder``, with its subfolders if ``recursive``, but for folder ``leave_out``.

    An image is a file with a suffix in READ_SUFFIXES, upper or lower case, or without a suffix but with the content
    of one. Hidden files and folders are left out, and links to folders, so that there are no circles. Raises
    InputError if ``folder`` is not a folder, OSError if it cannot be opened.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: {'not a regular file' if folder.exists() else 'no such file or folder'}")
    found = FoundImages()
    apart = leave_out and leave_out.resolve()
    waiting = _search(sorted(folder.iterdir()), found, apart)
    while waiting and recursive:
        subfolder = waiting.pop()
        try:
            inside = sorted(subfolder.iterdir())
        except OSError as error:
            found.unreadable.append((subfolder, f"cannot be opened ({error.strerror})"))
        else:
            waiting += _search(inside, found, apart)
    found.subfolders = len(waiting)
    return found


def _search(entries: list[Path], found: FoundImages, leave_out: Path | None) -> list[Path]:
    """Add the files among ``entries`` to ``found``; returns the folders among them, last first."""
    folders = []
    for entry in entries:
        if entry.is_dir():
            if entry.name.startswith(".") or (leave_out is not None and entry.resolve() == leave_out):
                continue
            if entry.is_symlink():
                found.passed["link to a folder"] += 1
            else:
                folders.append(entry)
        elif (reason := _why_not(entry)) is None:
            found.images.append(entry)
        elif reason:
            found.passed[reason] += 1
    return folders[::-1]


def _why_not(entry: Path) -> str | None:
    """Why a file is passed over; None: it is not; empty: it is not a picture, which is not worth a word."""
    suffix = entry.suffix.lower()
    looks = suffix in READ_SUFFIXES or suffix in _NOT_READ
    if entry.name.startswith("."):
        return "hidden" if looks and not entry.name.startswith("._") else ""  # ._NAME: what macOS keeps about NAME
    if not entry.is_file():
        if os.path.lexists(entry) and looks:
            return "broken link" if entry.is_symlink() else "not a regular file"
        return ""
    if suffix in READ_SUFFIXES:
        missing = what_to_install(suffix)
        return f"{suffix} ({missing})" if missing else None
    if suffix in _NOT_READ:
        return suffix
    content = format_of_file(entry)
    if not suffix:
        return "without a suffix, of another kind" if content is None else None
    return f"{suffix}, which is {content} inside" if content else ""
