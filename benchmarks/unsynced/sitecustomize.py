"""On the path of a measured process, this makes its writes as durable as those of ``cp``: not at all.

The command has no such option, and should not: a row that is called *unsynced* compares the work, a row of the command as it is compares
with ``cp`` followed by ``sync``.
"""

import os


def _nothing(fd: int) -> None:
    pass


os.fsync = os.fdatasync = _nothing
if hasattr(os, "posix_fadvise"):  # which has the disk begin to write
    del os.posix_fadvise
