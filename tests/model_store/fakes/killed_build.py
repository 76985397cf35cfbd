"""A writer that kills itself: run as `python killed_build.py ROOT STEP before|within`, exits 0 if it got through.

STEP counts the changes to the disk. `before` dies just before that change, `within` when it is half made.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from model_store.store_writer import StoreDisk
from tests.model_store.fakes.store_content import version, write

NEW = (version("b0", b"new b0" * 1000), version("b1", b"new b1" * 1000))


class DeadlyDisk(StoreDisk):
    def __init__(self, step: int, when: str) -> None:
        self.left, self.when = step, when

    def change(self, whole, half=None):
        """Make a change whole, or die before it, or half way; what has no half way is made and then survived."""
        if self.left == 0:
            if self.when == "within":
                (half or whole)()
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        whole()

    def make_folder(self, path):
        self.change(lambda: StoreDisk.make_folder(self, path))

    def write_file(self, path, content):
        half = lambda: path.write_bytes(content[: len(content) // 2])  # noqa: E731 -- beside its whole
        self.change(lambda: StoreDisk.write_file(self, path, content), half)

    def sync_folder(self, path):
        self.change(lambda: StoreDisk.sync_folder(self, path))

    def move(self, source, target):
        self.change(lambda: StoreDisk.move(self, source, target))

    def remove_folder(self, path):
        half = lambda: [file.unlink() for file in path.rglob("m*") if file.is_file()]  # noqa: E731 -- beside its whole
        self.change(lambda: StoreDisk.remove_folder(self, path), half)


if __name__ == "__main__":
    write(Path(sys.argv[1]), *NEW, disk=DeadlyDisk(int(sys.argv[2]), sys.argv[3]))
