"""Copy a directory of shards to S3, or to any other storage that fsspec can write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from serve.config.progress import progress_bar
from train.data.shards import DROPPED, HEADER, INDEX, Header, read_header
from train.errors import DataError


def upload_shards(directory: Path, url: str) -> int:
    """Copy a directory of shards to `url`, such as `s3://bucket/prefix`; return the number of files copied.

    The header is copied last, so its presence means a complete copy. Shards that the header at `url` lists
    with the same checksum are skipped.

    Raises:
        DataError: The storage cannot be written.
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
    # fsspec raises OSError for most failures; botocore has its own errors for credentials and endpoints.
    except Exception as error:
        raise DataError(f"{directory} cannot be copied to {url}: {error}") from error
    return len(names)


def _checksums(storage: Any, header_url: str) -> dict[str, str]:
    """Return {shard: sha256} of an earlier copy; empty where there is none."""
    try:
        header = msgspec.json.decode(storage.cat_file(header_url), type=Header)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return {shard.name: shard.sha256 for shard in header.shards}
