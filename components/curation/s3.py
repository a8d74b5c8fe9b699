"""Objects below a prefix of an S3 bucket, each fetched once: in parts, by several workers, resumable, verified.

boto3 does credentials, region and endpoint (environment, ~/.aws), listing page by page, and retries of single
requests. It also checks an object that comes in one response. Its transfer manager throws away what a kill
leaves half-fetched, so parts are managed here. A part is one ranged read with If-Match on the ETag of the listing: a file
never mixes two versions of an object. An object is known by key, size and ETag: a changed one is fetched, an unchanged one
never is again. So they are kept in .reelign/cache/s3 and outlive the stage, whatever else changes. Beside each lies the
SHA-256 of what was verified. A file that has changed since (it is linked to, and disks fail) is fetched again, by name.

A fetched file is verified by its size and by the first of these that the object has:

- a checksum of the whole;
- an ETag that is the MD5;
- the same two made over the parts of an upload, where the server lists the parts' sizes.

Of an object that has none of them only the size can be verified; `Prefix.unverified` counts those. What was broken
before it was uploaded arrives broken, and stage curate rejects it.
"""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore import exceptions as boto
from botocore.config import Config

from components.curation.checksums import BLOCK, Promise, difference, promises
from components.errors import BadInput, Unreachable
from components.files.atomic import atomic_write, discard, put_in_place
from components.files.digests import file_digest
from components.pipeline.stage import SCRATCH

CACHE = SCRATCH / "cache" / "s3"
PART = 8 << 20  # bytes
DIGEST = ".sha256"  # ends the name of the file with an object's digest
TRIES = 3  # at an object whose bytes are not those of the bucket's checksum
PAUSE = 2.0  # seconds before the next request to a server that does not answer
# A request that did not arrive, or an answer that ended early.
OUTAGES = (
    boto.EndpointConnectionError,
    boto.ConnectTimeoutError,
    boto.ProxyConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
)
Answer = dict[str, Any]
Result = TypeVar("Result")


class Changed(Exception):
    """An object is no longer what the listing said."""


@dataclass(frozen=True)
class Object:
    """An object as the bucket lists it."""

    key: str
    size: int  # bytes
    etag: str  # with its quotation marks

    @property
    def name(self) -> str:
        """Of its file in the cache."""
        return hashlib.sha256(json.dumps([self.key, self.size, self.etag]).encode()).hexdigest()

    @property
    def parts(self) -> int:
        return max(1, -(-self.size // PART))


class Prefix:
    """The objects below `url`, s3://bucket/prefix.

    Every method waits up to `patience` seconds for a server that does not answer (one that restarts, say) and then raises
    Unreachable. What the server refuses (credentials, bucket, rights) is BadInput at once.
    """

    def __init__(self, url: str, workers: int, patience: float, say: Callable[[str], None]):
        self.url, self.workers, self.patience, self.say = url, workers, patience, say
        self.bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self.below = f"{prefix}/" if prefix else ""
        self.cache = CACHE / hashlib.sha256(url.encode()).hexdigest()[:16]
        self.fetched: dict[Object, int] = {}  # by this process, with the bytes that came for it
        self.unverified = 0  # of these, objects whose size alone could be verified
        self._told = float("-inf")  # when it was last said that the server does not answer
        self._stopped = threading.Event()
        retries = {"mode": "standard", "total_max_attempts": 3}
        config = Config(retries=retries, connect_timeout=10, read_timeout=30, max_pool_connections=workers)
        try:
            self.client = boto3.Session().client("s3", config=config)
        except (boto.BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no address
            raise BadInput(url, str(error)) from error

    def listing(self) -> dict[str, Object]:
        """Every object below the prefix, by its path relative to it."""

        def pages() -> dict[str, Object]:
            paginator = self.client.get_paginator("list_objects_v2")
            return {
                entry["Key"].removeprefix(self.below): Object(entry["Key"], entry["Size"], entry["ETag"])
                for page in paginator.paginate(Bucket=self.bucket, Prefix=self.below)
                for entry in page.get("Contents", [])
            }

        return self._ask(pages, self.url)

    def file(self, item: Object) -> Path:
        """Where an object lies once it is fetched. Read-only: to be linked or copied, never written to."""
        return self.cache / item.name

    def fetch(self, items: Iterable[Object], progress: Callable[[Iterable[Any], str, int], Iterator[Any]]) -> None:
        """Bring all objects to `file`. Changed when one is not as listed any more, BadInput when one arrives with
        other bytes than its checksum has TRIES times over. Whatever ends it, finished objects and parts stay."""
        self.cache.mkdir(parents=True, exist_ok=True)
        parts: list[Future] = []
        finishes: dict[Future, Object] = {}
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                items = list(items)
                for item, there in zip(items, pool.map(self._has, items), strict=True):
                    if not there:
                        missing = self._missing(item) if item.parts > 1 else []
                        # Jobs begin in this order, so that one that waits for parts waits for some that others are at.
                        begun = [pool.submit(self._get, item, part) for part in missing]
                        finishes[pool.submit(self._finish, item, begun)] = item
                        parts += begun
                jobs = [*parts, *finishes]
                for job in progress(as_completed(jobs), "transfers", len(jobs)):
                    result = job.result()
                    if job in finishes:
                        self.fetched[finishes[job]], verified = result
                        self.unverified += not verified
            finally:
                self._stopped.set()  # after an error nobody goes on waiting for the server
                pool.shutdown(cancel_futures=True)
                self._stopped.clear()

    def hold(self, items: dict[str, Object]) -> None:
        """Changed when the bucket does not have just these objects at these paths any more."""
        listing = self.listing()
        for path, item in items.items():
            if listing.get(path) != item:
                raise Changed(f"{self._name(item)} was changed or deleted")

    def keep_only(self, items: Iterable[Object]) -> None:
        """Forget whatever was fetched or begun and is not among `items`."""
        names = {item.name for item in items}
        for path in self.cache.iterdir():
            if path.name.removesuffix(DIGEST) not in names:
                path.unlink()

    def _has(self, item: Object) -> bool:
        """Whether an object lies here as it was verified; a damaged one is named and removed. One that has no digest, or a
        damaged one, is held to the bucket's checksum."""
        file, kept = self.file(item), self._digest(item)
        if not file.exists():
            return False
        known = kept.read_text(errors="replace") if kept.exists() else ""
        if file.stat().st_size != item.size:
            differs = f"{file.stat().st_size} bytes of {item.size}"
        elif re.fullmatch("[0-9a-f]{64}", known):
            differs = None if file_digest(file) == known else "not the bytes that were verified"
        else:
            promise = self._promise(item, self._head(item))
            differs = difference(file, *promise) if promise else "the bucket has no checksum of it"
            if not differs:
                self._keep_digest(item, file)
        if differs:
            discard(file, f"{self._name(item)}: {differs}")
        return not differs

    def _digest(self, item: Object) -> Path:
        """The file with the SHA-256 of an object as it was verified."""
        return self.cache / f"{item.name}{DIGEST}"

    def _keep_digest(self, item: Object, file: Path) -> None:
        atomic_write(self._digest(item), file_digest(file))

    def _partial(self, item: Object) -> Path:
        """A file in the making: room for the object's bytes, then a byte for each part, 1 when that part is there."""
        return self.cache / f"{item.name}.partial"

    def _missing(self, item: Object) -> list[int]:
        partial, room = self._partial(item), item.size + item.parts
        if not partial.exists() or partial.stat().st_size != room:
            with open(partial, "wb") as file:
                file.truncate(room)
        with open(partial, "rb") as file:
            file.seek(item.size)
            return [part for part, there in enumerate(file.read()) if not there]

    def _get(self, item: Object, part: int) -> Answer:
        """Fetch one part into the partial file; S3's answer."""
        start = part * PART
        length = min(PART, item.size - start)
        where = {"Range": f"bytes={start}-{start + length - 1}"} if item.parts > 1 else {}

        def read() -> Answer:
            wanted = {"Bucket": self.bucket, "Key": item.key, "IfMatch": item.etag, "ChecksumMode": "ENABLED"}
            answer = self.client.get_object(**wanted, **where)
            if answer["ContentLength"] != length:
                raise BadInput(self._name(item), f"{answer['ContentLength']} bytes arrived instead of {length}")
            with open(self._partial(item), "r+b") as file:
                file.seek(start)
                for block in answer["Body"].iter_chunks(BLOCK):
                    file.write(block)
            return answer

        answer = self._ask(read, self._name(item))
        with open(self._partial(item), "r+b") as file:
            file.seek(item.size + part)
            file.write(b"\1")
        return answer

    def _finish(self, item: Object, begun: list[Future]) -> tuple[int, bool]:
        """Fetch what no job has begun, verify, put in place: (bytes fetched, whether more than the size was verified)."""
        answers = [job.result() for job in begun]
        for _ in range(TRIES):
            try:
                answers += [self._get(item, part) for part in self._missing(item)]
                # The answer that brought the whole object has its checksums; one that brought a part does not.
                promise = self._promise(item, answers[-1] if answers and item.parts == 1 else self._head(item))
                differs = promise and difference(self._partial(item), *promise)
            except boto.FlexibleChecksumError as error:  # boto3 has checked what came in one response
                differs = str(error)
            if not differs:
                os.truncate(self._partial(item), item.size)
                self._partial(item).chmod(0o444)
                self._keep_digest(item, self._partial(item))
                put_in_place(self._partial(item), self.file(item))
                return sum(answer["ContentLength"] for answer in answers), promise is not None
            self._partial(item).unlink()
        raise BadInput(self._name(item), f"came {TRIES} times otherwise than in the bucket's listing: {differs}")

    def _promise(self, item: Object, answer: Answer) -> tuple[Promise, list[int]] | None:
        """The first promise that can be held to, and the sizes that the object's bytes fall into for it."""
        for promise in promises(answer):
            if not promise.parts:
                return promise, [item.size]
            sizes = [self._head(item, PartNumber=part)["ContentLength"] for part in range(1, promise.parts + 1)]
            if sum(sizes) == item.size:
                return promise, sizes
        return None

    def _head(self, item: Object, **part: int) -> Answer:
        wanted = {"Bucket": self.bucket, "Key": item.key, "IfMatch": item.etag, "ChecksumMode": "ENABLED"}
        return self._ask(lambda: self.client.head_object(**wanted, **part), self._name(item))

    def _name(self, item: Object) -> str:
        return f"s3://{self.bucket}/{item.key}"

    def _ask(self, call: Callable[[], Result], name: str) -> Result:
        """`call()`, again and again while the server does not answer; its refusals as our errors, about `name`."""
        failing_since = None
        while True:
            try:
                return call()
            except boto.ClientError as error:
                trouble = refusal(error, name)
            except boto.FlexibleChecksumError:
                raise
            except OUTAGES as error:
                trouble = str(error)
            except boto.BotoCoreError as error:  # no credentials, no such profile, a certificate that is not trusted
                raise BadInput(name, str(error)) from error
            now = time.monotonic()
            failing_since = failing_since or now
            if now - failing_since > self.patience:
                raise Unreachable(name, f"no answer for {self.patience:g} s; what was fetched is kept ({trouble})")
            if now - self._told > 10:
                self._told = now
                self.say(f"{name}: no answer, asking for up to {self.patience:g} s ({trouble})")
            if self._stopped.wait(PAUSE):
                raise Unreachable(name, trouble)


def refusal(error: boto.ClientError, name: str) -> str:
    """Why the server could not answer for the moment; raises what does not pass: Changed or BadInput."""
    code, why = (error.response["Error"].get(key, "") for key in ("Code", "Message"))
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if status >= 500 or status in (408, 429) or code == "RequestTimeout":
        return f"{code}: {why}"
    if code in ("NoSuchKey", "PreconditionFailed") or (status in (404, 412) and code == str(status)):
        raise Changed(f"{name} was changed or deleted") from error
    raise BadInput(name, f"{code}: {why}") from error
