"""What lies in a directory, and a disk that is full, for tests of what is written."""

from contextlib import contextmanager

import pytest


@contextmanager
def files_of_at_most(size):
    """A disk that takes no larger files."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(directory, *but):
    """The bytes of every file by its path, but for some of the folders and files."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.relative_to(directory).parts[0] not in but
    }
