"""Objects of DVC's cache: which a dvc.lock needs, and which nothing names any more.

Roots are each dvc.lock and .dvc file, of the checkout, of the stages' trees and of every branch, tag and experiment of git;
and the entries of the run cache and of DAG runs that were written lately. A root names objects by their MD5; one of a folder
names those of its files.
"""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from components.errors import BadInput
from components.orchestration.storage.item import Item, dropped, kept, size_of
from components.pipeline.dvc_internals import cache_folder, repository
from components.pipeline.lock import COPY, LOCK, remove_empty

KIND = "DVC cache"
OBJECTS = Path("files/md5")
ENTRIES = ("runs", "executions")
DIGEST = re.compile(r"\b[0-9a-f]{32}\b(?:\.dir)?")


def dvc_items(checkout: Path, trees: Iterable[Path], since: float, days: int) -> list[Item]:
    """since: of the epoch; what is newer stays. BadInput where a root cannot be read."""
    with repository() as repo:
        cache = cache_folder(repo)
    if not cache.is_dir():
        return []
    if not cache.resolve().is_relative_to(checkout.resolve()):
        why = "lies outside of this checkout, and other checkouts may need it: see `dvc gc --projects`"
        return [kept(KIND, cache, size_of(cache)[0], why)]
    needed = {digest: "named by a dvc.lock or .dvc file" for digest in with_files(cache, named_by_locks(checkout, trees))}
    entries = [file for name in ENTRIES for file in sorted((cache / name).rglob("*")) if file.is_file()]
    recent = [file for file in entries if file.stat().st_mtime >= since]
    lately = f"named by a run of the last {days} days"
    for digest in with_files(cache, {digest for file in recent for digest in digests(file.read_text())}):
        needed.setdefault(digest, lately)
    items, gone = [], set()
    for folder in sorted((cache / OBJECTS).glob("??")):
        for file in sorted(folder.iterdir()):
            digest, size = folder.name + file.name, size_of(file)
            if digest in needed:
                items.append(kept(KIND, file, size[0], needed[digest]))
            elif file.stat().st_mtime >= since:
                items.append(kept(KIND, file, size[0], f"written in the last {days} days"))
            else:
                gone.add(digest)
                items.append(dropped(KIND, file, size, "nothing names it: a stage can make it again", file.unlink))
    for file in entries:
        if file not in recent and not gone.isdisjoint(with_files(cache, digests(file.read_text()))):
            # Before its objects: without them it would promise what is not there.
            why = "entry of an old run whose outputs go"
            items.insert(0, dropped(KIND, file, size_of(file), why, partial(remove_entry, file)))
    return items


def remove_entry(file: Path) -> None:
    file.unlink()
    remove_empty(file.parent)


def named_by_locks(checkout: Path, trees: Iterable[Path]) -> set[str]:
    texts = [file for place in (checkout, *trees) for file in (place / LOCK, place / COPY) if file.exists()]
    listed = git(checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.dvc").split("\0")
    own = [checkout / name for name in listed if name and (checkout / name).is_file()]
    found = {digest for file in (*texts, *own) for digest in digests(file.read_text(errors="replace"))}
    return found | {digest for text in committed(checkout) for digest in digests(text)}


def digests(text: str) -> set[str]:
    return {match[0] for match in DIGEST.finditer(text)}


def committed(checkout: Path) -> Iterator[str]:
    """Content of each dvc.lock and .dvc file of HEAD and of every reference of git, once."""
    refs = git(checkout, "for-each-ref", "--format=%(objectname)").split()
    head = git(checkout, "rev-parse", "--verify", "--quiet", "HEAD").split()
    seen: set[str] = set()
    for ref in dict.fromkeys([*head, *refs]):
        for line in git(checkout, "ls-tree", "-r", "--full-tree", ref).splitlines():
            about, _, name = line.partition("\t")
            blob = about.split()[2]
            if (name == str(LOCK) or name.endswith((f"/{LOCK}", ".dvc"))) and blob not in seen:
                seen.add(blob)
                yield git(checkout, "cat-file", "blob", blob)


def git(checkout: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        raise BadInput(checkout, f"git {words[0]} fails: {done.stderr.strip()[-200:]}; its branches name what must stay")
    return done.stdout


def with_files(cache: Path, digests: Iterable[str]) -> set[str]:
    """These objects, and of each that is a folder those of its files. BadInput where the list of a folder is damaged."""
    found = set()
    for digest in digests:
        found.add(digest)
        file = cache / OBJECTS / digest[:2] / digest[2:]
        if digest.endswith(".dir") and file.exists():
            try:
                found |= {entry["md5"] for entry in json.loads(file.read_bytes())}
            except (ValueError, TypeError, KeyError) as error:
                raise BadInput(file, "no list of a folder: `dvc fetch` brings it again") from error
    return found
