"""Every kind of promise about bytes: kept ones are believed, any changed byte is found."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.curation.checksums import CHECKSUMS, difference, promises

# The checks of "123456789" in the catalogue of CRC algorithms (https://reveng.sourceforge.io/crc-catalogue/).
CATALOGUE = {"CRC32": "cbf43926", "CRC32C": "e3069283", "CRC64NVME": "ae8b14860a799888"}


def digest(name: str, data: bytes) -> bytes:
    total = CHECKSUMS[name]()
    total.update(data)
    return total.digest()


@pytest.mark.parametrize("name", CATALOGUE)
def test_crcs_are_those_of_the_catalogue(name):
    assert digest(name, b"123456789").hex() == CATALOGUE[name]


def answer(name: str, pieces: list[bytes], whole: bool) -> dict:
    """What S3 says of an object that was uploaded in these pieces; its ETag says nothing about the bytes."""
    if whole:
        return {f"Checksum{name}": base64.b64encode(digest(name, b"".join(pieces))).decode(), "ETag": '"none"'}
    parts = b"".join(digest(name, piece) for piece in pieces)
    return {f"Checksum{name}": f"{base64.b64encode(digest(name, parts)).decode()}-{len(pieces)}", "ETag": '"none"'}


@given(
    name=st.sampled_from(list(CHECKSUMS)),
    pieces=st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=4),
    whole=st.booleans(),
    at=st.integers(0, 10**6),
    bit=st.integers(0, 7),
)
def test_a_promise_is_kept_by_its_bytes_and_by_no_others(tmp_path_factory, name, pieces, whole, at, bit):
    path = tmp_path_factory.getbasetemp() / "object"
    data = bytearray(b"".join(pieces))
    path.write_bytes(data + b"marks")  # what lies behind the object's bytes does not count
    (promise,) = promises(answer(name, pieces, whole))
    sizes = [len(data)] if whole else [len(piece) for piece in pieces]
    assert (promise.name, promise.parts) == (name, 0 if whole else len(pieces))
    assert difference(path, promise, sizes) is None
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    assert f"{name} is " in difference(path, promise, sizes)
    path.write_bytes(data[:-1])
    assert difference(path, promise, sizes)


def test_the_best_promise_comes_first():
    md5 = hashlib.md5(b"x").hexdigest()
    crc = base64.b64encode(digest("CRC32", b"x")).decode()
    sha = base64.b64encode(digest("SHA256", b"x")).decode()

    def names(**said):
        return [(promise.name, promise.parts) for promise in promises({"ETag": f'"{md5}"'} | said)]

    assert names() == [("MD5", 0)]
    assert names(ServerSideEncryption="AES256") == [("MD5", 0)]
    assert names(ServerSideEncryption="aws:kms") == []  # such an ETag has the looks of an MD5 and is none
    assert names(ETag=f'"{md5}-12"') == [("MD5", 12)]
    assert names(ETag='"not-from-amazon"') == []
    assert names(ChecksumCRC32=crc, ChecksumSHA256=sha) == [("SHA256", 0), ("CRC32", 0), ("MD5", 0)]
    assert names(ChecksumCRC32=f"{crc}-3", ETag=f'"{md5}-3"', ChecksumSHA256=sha) == [
        ("SHA256", 0),
        ("CRC32", 3),
        ("MD5", 3),
    ]
