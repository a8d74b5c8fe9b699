"""S3's checksums of an object, and the check of a file against them.

An object may carry checksums of S3 or of the uploader: SHA-512, SHA-256, SHA-1, CRC-64/NVME, CRC-32C, CRC-32.
Its ETag is the MD5 of its bytes unless a key of KMS or of a customer encrypts it. After an upload in parts either may
be made over the digests of the parts instead, and ends in -N, the number of parts.
"""

import base64
import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awscrt.checksums

BLOCK = 1 << 20  # bytes read at a time


class Crc:
    """A cyclic redundancy check with the options of hashlib; S3 writes it big-endian."""

    def __init__(self, step: Callable[[bytes, int], int], size: int):
        self.step, self.size, self.value = step, size, 0

    def update(self, data: bytes) -> None:
        self.value = self.step(data, self.value)

    def digest(self) -> bytes:
        return self.value.to_bytes(self.size, "big")


CHECKSUMS: dict[str, Callable[[], Any]] = {
    "SHA512": hashlib.sha512,
    "SHA256": hashlib.sha256,
    "SHA1": hashlib.sha1,
    "CRC64NVME": lambda: Crc(awscrt.checksums.crc64nvme, 8),
    "CRC32C": lambda: Crc(awscrt.checksums.crc32c, 4),
    "CRC32": lambda: Crc(zlib.crc32, 4),
}


@dataclass(frozen=True)
class Promise:
    """What a bucket has on record of an object's bytes: a digest of all of them, or of the digests of its `parts` parts."""

    name: str
    new: Callable[[], Any]
    digest: bytes
    parts: int  # 0: made over the whole


def promises(answer: dict[str, Any]) -> list[Promise]:
    """The checksums in an answer to GetObject or HeadObject, best first."""
    found = []
    for name, new in CHECKSUMS.items():
        digest, _, parts = answer.get(f"Checksum{name}", "").partition("-")
        if digest:
            found.append(Promise(name, new, base64.b64decode(digest), int(parts or 0)))
    etag = re.fullmatch(r'"([0-9a-f]{32})(?:-(\d+))?"', answer["ETag"])
    if etag and answer.get("ServerSideEncryption", "AES256") == "AES256":
        found.append(Promise("MD5", hashlib.md5, bytes.fromhex(etag[1]), int(etag[2] or 0)))
    return sorted(found, key=lambda promise: promise.parts > 0)


def difference(path: Path, promise: Promise, sizes: list[int]) -> str | None:
    """How the first sum(sizes) bytes of a file break the promise; None when they keep it."""
    digests = []
    with open(path, "rb") as file:
        for size in sizes:
            total = promise.new()
            while size and (block := file.read(min(size, BLOCK))):
                total.update(block)
                size -= len(block)
            digests.append(total.digest())
    if promise.parts:
        total = promise.new()
        total.update(b"".join(digests))
        digests = [total.digest()]
    if digests[0] == promise.digest:
        return None
    return f"{promise.name} is {digests[0].hex()}, the bucket has {promise.digest.hex()}"
