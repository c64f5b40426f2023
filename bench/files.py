"""Files that are either whole or not there: temporary file in the same folder, fsync, then one atomic step."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bench.errors import BenchError

Content = bytes | Callable[[BinaryIO], None]
"""What a file is to hold, or what writes it, for a file that memory should not hold whole."""


def replace(path: Path, content: Content) -> None:
    """Write a file, replacing an older one in one step.

    Raises:
        BenchError: the folder cannot be written or the disk is full.
    """
    with _temporary(path, content) as temporary:
        os.replace(temporary, path)


def create(path: Path, content: bytes) -> bool:
    """Write a file that must not exist yet; the first of racing writers wins.

    Returns:
        False where the file was there already; it is left as it is.

    Raises:
        BenchError: the folder cannot be written or the disk is full.
    """
    with _temporary(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            # A file system without hard links: the check and the rename are two steps, the content still whole.
            if path.exists():
                return False
            os.replace(temporary, path)
    return True


@contextmanager
def _temporary(path: Path, content: Content) -> Iterator[str]:
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        yield temporary
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        raise BenchError(f"cannot write {path}: {why}; make room there or choose another folder") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
