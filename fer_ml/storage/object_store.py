"""A directory of an object store (``s3://``): objects by name, each complete or absent.

fsspec's s3fs talks to the store. Credentials and endpoint come from the environment, as for AWS's
own tools. s3fs retries on its own; an error after that becomes one ``FerError``.
"""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fer_ml.base.errors import FerError

#: Of one request: s to wait for an answer, and how often botocore tries it, in each of the five
#: tries of s3fs.
TIMEOUT, TRIES = 20, 2
#: Refusals of this machine's own disk, which are told as such.
_OWN_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


@dataclass(frozen=True)
class Entry:
    """The listing of one object. ``etag`` is the md5 of its bytes in most stores."""

    bytes: int
    etag: str
    modified: datetime


@dataclass(frozen=True)
class Bucket:
    """The objects below ``url`` (``s3://BUCKET/PREFIX``); names are relative, with ``/``."""

    url: str

    def below(self, name: str) -> "Bucket":
        """Return the bucket of one of its directories."""
        return Bucket(f"{self.url}/{name}")

    def check(self) -> None:
        """Raise ``FerError`` unless the store answers."""
        with self._readable(""):
            self._files().ls(self._name("").split("/")[0])

    def read(self, name: str) -> bytes | None:
        """Return the bytes of one object, or ``None`` when it does not exist."""
        with self._readable(name):
            try:
                return bytes(self._files().cat_file(self._name(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Write one object; an object of that name is replaced."""
        with self._readable(name):
            self._files().pipe_file(self._name(name), data)

    def put(self, paths: Mapping[str, Path]) -> None:
        """Upload files in parallel; ``paths`` maps object names to files."""
        if paths:
            with self._readable(min(paths)):
                self._files().put([str(p) for p in paths.values()], [*map(self._name, paths)])

    def get(self, paths: Mapping[str, Path]) -> None:
        """Download objects in parallel; ``paths`` maps object names to files."""
        if paths:
            for path in paths.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            with self._readable(min(paths)):
                self._files().get([*map(self._name, paths)], [str(p) for p in paths.values()])

    def delete(self, names: list[str]) -> None:
        """Delete existing objects by name."""
        if names:
            with self._readable(min(names)):
                self._files().rm([self._name(name) for name in names])

    def names(self) -> list[str]:
        """Return the names of the directories and objects directly below the bucket's URL."""
        with self._readable(""):
            try:
                keys = self._files().ls(self._name(""), detail=False)
            except FileNotFoundError:
                return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in keys)

    def list(self, folder: str = "") -> dict[str, Entry]:
        """Return every object below a directory, by its name relative to that directory."""
        start = self._name(folder) + "/"
        with self._readable(folder):
            objects = self._files().find(start, detail=True)
        return {
            name.removeprefix(start): Entry(
                details["size"], details["ETag"].strip('"'), details["LastModified"]
            )
            for name, details in objects.items()
            if name.startswith(start)
        }

    def abort_uploads(self, before: datetime) -> int:
        """Abort multipart uploads that began before a time and never finished; return how many."""
        bucket, _, prefix = self._name("").partition("/")
        with self._readable(""):
            files = self._files()
            answer = files.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/")
            old = [u for u in answer.get("Uploads", ()) if u["Initiated"] < before]
            for upload in old:
                named = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                files.call_s3("abort_multipart_upload", Bucket=bucket, **named)
        return len(old)

    def _name(self, name: str) -> str:
        return f"{self.url.removeprefix('s3://')}/{name}".rstrip("/")

    def _files(self) -> Any:
        try:
            import fsspec
            import s3fs  # noqa: F401 - fsspec imports it by name, and its own message is longer.
        except ImportError as error:
            raise FerError(
                "FER_HOME is an object store, and s3fs is not installed",
                code="missing-package",
                where=self.url,
                fix="pip install -e '.[s3]', or set FER_HOME to a folder",
            ) from error
        # Kept by fsspec: one for each process, and a new one after a fork.
        config = {
            "connect_timeout": TIMEOUT,
            "read_timeout": TIMEOUT,
            "retries": {"mode": "standard", "total_max_attempts": TRIES},
        }
        return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=config)

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        """Turn errors of the store or of the connection into one ``FerError``."""
        try:
            yield
        except Exception as error:
            own_disk = isinstance(error, OSError) and error.errno in _OWN_DISK
            if own_disk or not (isinstance(error, OSError) or _of_the_store(error)):
                raise
            bucket, _, key = self._name(name).partition("/")
            raise FerError(
                f"the object store failed: {str(error) or type(error).__name__}",
                code="object-store-failed",
                where=f"bucket {bucket}, key {key}",
                fix="check the store, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, then "
                "start again: what is finished is kept here and uploaded then",
            ) from error


def _of_the_store(error: Exception) -> bool:
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError
    from botocore.exceptions import ClientError as Refused

    return isinstance(error, BotoCoreError | Refused | ClientError)
