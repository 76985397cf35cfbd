"""What `phiserve classify` was told to send, as a list of images: files, folders, globs, and `-` for standard input.

It looks at names only; files are read when their turn comes.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

STDIN = "-"
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What counts as an image inside a folder. A file that is named is sent whatever its name."""


class NoSuchImage(Exception):
    """An argument stands for no image. The message says which, and what would."""


@dataclass(frozen=True, slots=True)
class ImageArgument:
    """One image to send. `name` is as it was given or found; `-` stands for standard input."""

    name: str

    @property
    def short_name(self) -> str:
        """Without its folder."""
        return self.name if self.name == STDIN else Path(self.name).name

    def open(self) -> Path | bytes:
        """What a client takes; standard input is read to its end."""
        return sys.stdin.buffer.read() if self.name == STDIN else Path(self.name)


def expand(arguments: Iterable[str]) -> list[ImageArgument]:
    """Every image that `arguments` stand for, in their order, those of a folder or a glob sorted by name.

    A folder stands for the images in it and in its folders, hidden ones aside. A glob, `**` for any depth of folders,
    is for where no shell expands it.

    Raises:
        NoSuchImage: a file that is not there, a folder or a glob without an image, or standard input twice.
    """
    found = [ImageArgument(name) for argument in arguments for name in _names(argument)]
    if sum(image.name == STDIN for image in found) > 1:
        raise NoSuchImage("standard input can be read once only; give - once")
    return found


def _names(argument: str) -> list[str]:
    path = Path(argument)
    if argument == STDIN or path.is_file():
        return [argument]
    if path.is_dir():
        names = sorted(str(found) for found in _images_in(path))
        if not names:
            raise NoSuchImage(f"there is no image in the folder {argument}; looked for {', '.join(sorted(SUFFIXES))}")
        return names
    if glob.has_magic(argument):
        matches = glob.glob(argument, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        names = sorted(name for name in matches if Path(name).is_file())
        if not names:
            raise NoSuchImage(f"no file matches {argument}")
        return names
    raise NoSuchImage(f"there is no file {argument}; give files, folders, globs, or - for standard input")


def _images_in(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not is_hidden and path.is_file():
            yield path
