"""Where recordings and results lie: folders of this machine, or URLs of any storage that fsspec knows.

    store = store_of("s3://bucket/transcripts")
    store.write("results/a.jsonl", content)      # readers see the whole file or none

Knows no recordings.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, Protocol

from serve.errors import StorageError
from serve.model.durable_write import write_whole

SCHEME = "://"

LOCAL_SCHEMES = ("file", "local")
"""fsspec would write their files in place, so that a killed writer leaves a part of one."""


class Store(Protocol):
    """A folder of files, by names with `/` below it."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None where there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file as a whole, replacing an older one."""

    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, without the folder's, in order."""


class LocalStore:
    """A directory of this machine, or of a file system that all workers share."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self.directory / name).read_bytes()
        return None

    def write(self, name: str, content: bytes) -> None:
        try:
            write_whole(self.directory / name, content)
        except OSError as error:
            raise StorageError(f"{self.directory} cannot be written: {error.strerror or error}") from error

    def delete(self, name: str) -> None:
        (self.directory / name).unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        return (self.directory / name).is_file()

    def names(self, folder: str) -> list[str]:
        with suppress(FileNotFoundError):
            return sorted(each.name for each in (self.directory / folder).iterdir() if _is_visible(each.name))
        return []

    def sweep(self) -> None:
        """Delete what killed writers left half-written."""
        for part in self.directory.rglob(".*.part"):
            part.unlink(missing_ok=True)


class UrlStore:
    """A store by URL, such as `s3://bucket/prefix`; each write is one object, whole or absent."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def read(self, name: str) -> bytes | None:
        try:
            return read_url(f"{self.url}/{name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        storage, path = storage_of(f"{self.url}/{name}")
        try:
            storage.pipe_file(path, content)
        except Exception as error:
            refuse(self.url, error)

    def delete(self, name: str) -> None:
        storage, path = storage_of(f"{self.url}/{name}")
        try:
            if storage.exists(path):
                storage.rm_file(path)
        except Exception as error:
            refuse(self.url, error)

    def has(self, name: str) -> bool:
        storage, path = storage_of(f"{self.url}/{name}")
        try:
            return bool(storage.exists(path))
        except Exception as error:
            refuse(self.url, error)

    def names(self, folder: str) -> list[str]:
        storage, path = storage_of(f"{self.url}/{folder}")
        try:
            storage.invalidate_cache()
            found = storage.find(path, maxdepth=1)
        except Exception as error:
            refuse(self.url, error)
        names = (each.rpartition("/")[2] for each in found)
        return sorted(name for name in names if _is_visible(name))


def store_of(where: str) -> Store:
    """Return the store of a folder's name or a URL.

    Raises:
        StorageError: The packages for a URL of this machine are not installed.
    """
    if SCHEME not in where:
        return LocalStore(Path(where).absolute())
    if where.partition(SCHEME)[0] in LOCAL_SCHEMES:
        return LocalStore(Path(storage_of(where)[1]))
    return UrlStore(where)


def read_url(url: str) -> bytes:
    """Return the content of a file by URL.

    Raises:
        FileNotFoundError, PermissionError: There is no such file, or it may not be read.
        StorageError: The storage does not answer.
    """
    storage, path = storage_of(url)
    try:
        content: bytes = storage.cat_file(path)
        return content
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        refuse(url, error)


def storage_of(url: str) -> tuple[Any, str]:
    """Return fsspec's storage for a URL, and the path in it.

    Raises:
        StorageError: The packages for it are not installed, or there is no such protocol.
    """
    scheme = url.partition(SCHEME)[0]
    storage = _storage(scheme)
    return storage, storage._strip_protocol(url)


@cache
def _storage(scheme: str) -> Any:
    try:
        import fsspec

        # A listing that is kept would hide what other processes write.
        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise StorageError(
            f"{scheme}:// cannot be opened: {error}; for s3:// pip install 'shrota[s3]'"
        ) from error


def refuse(url: str, error: Exception) -> NoReturn:
    """Raise a storage's own error, of whatever kind, as ours: botocore has a tree apart from OSError."""
    if isinstance(error, StorageError):
        raise error
    raise StorageError(f"{url} cannot be used: {error}") from error


def _is_visible(name: str) -> bool:
    return bool(name) and not name.startswith(".")
