"""Copy a directory of shards to object storage: S3, or any other place that fsspec writes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from serve.config.progress import progress_bar
from train.data.shards import DROPPED, HEADER, INDEX, Header, read_header
from train.errors import DataError


def upload_shards(directory: Path, url: str) -> int:
    """Copy a directory of shards to `url`, such as `s3://bucket/prefix`; return the number of files copied.

    The header comes last: where it is, everything is. Shards that the header found there lists with the same
    checksum are not copied again.

    Raises:
        DataError: the place cannot be written to.
    """
    header = read_header(directory)
    try:
        import fsspec

        storage, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url} cannot be written to: {error}; for s3:// pip install 'shrota[s3]'") from error
    root = root.rstrip("/")
    try:
        there = _checksums(storage, f"{root}/{HEADER}")
        shards = [shard.name for shard in header.shards if there.get(shard.name) != shard.sha256]
        names = [*shards, *(name for name in (DROPPED, INDEX) if (directory / name).is_file()), HEADER]
        if storage.protocol == "file" or "file" in storage.protocol:
            storage.makedirs(root, exist_ok=True)
        with progress_bar(f"uploading to {url}", len(names), "files") as advance:
            for name in names:
                storage.put_file(str(directory / name), f"{root}/{name}")
                advance()
    # fsspec's storages raise OSError for most faults, botocore its own errors for credentials and endpoints.
    except Exception as error:
        raise DataError(f"{directory} cannot be copied to {url}: {error}") from error
    return len(names)


def _checksums(storage: Any, header_url: str) -> dict[str, str]:
    """Return {shard: sha256} of a copy made earlier; nothing where there is none."""
    try:
        header = msgspec.json.decode(storage.cat_file(header_url), type=Header)
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
    return {shard.name: shard.sha256 for shard in header.shards}
