"""The chain of a bundle outside its artifact root: everything it was made from, by hash.

``lineage.json`` lies beside the bundle. For each artifact from the bundle down to the raw folders
it holds the hash of every file, the hashes of its inputs, and its recipe. So anybody can verify
that the chain is complete, and compare it with the artifacts where these exist.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError

from fer_ml.base.errors import FerError, first_fault
from fer_ml.base.plain import Plain
from fer_ml.base.reading import read_file, sha256_file
from fer_ml.base.versions import known_version
from fer_ml.bundles.bundle import CARD_FILE, MODEL_FILE, Bundle
from fer_ml.claims.trace import Node
from fer_ml.exchange.facts import portable
from fer_ml.storage.record import FileEntry, asset_label, content_hash

CHAIN_FILE = "lineage.json"
#: No chain needs more bytes.
MAX_CHAIN = 16_000_000


class Named(Plain):
    """An artifact or a raw folder by its hash."""

    asset: str
    partition: str | None
    sha256: str

    @property
    def label(self) -> str:
        """The label, such as ``teacher[RN18]``."""
        return asset_label(self.asset, self.partition)


class Link(Named):
    """One artifact of a chain: its files, its inputs, and its recipe."""

    files: dict[str, FileEntry]
    inputs: tuple[Named, ...]
    profile: str
    recipe: dict[str, Any]
    code_version: str
    created_at: str
    splits: dict[str, str]


class Chain(Plain):
    """``lineage.json``: ``links`` from the raw folders up; the last one holds the bundle.

    ``place`` is the bundle's folder in that artifact, ``raw`` the fingerprints of raw folders.
    """

    schema_version: Annotated[int, AfterValidator(known_version)] = 1
    place: str
    links: tuple[Link, ...]
    raw: tuple[Named, ...]

    @property
    def top(self) -> Link:
        """The artifact that holds the bundle."""
        return self.links[-1]


def chain_of(nodes: Iterable[Node], place: str) -> Chain:
    """Return the chain of verified nodes, inputs first; ``FerError`` if one must not be used.

    Paths of this machine are left out.
    """
    links, raw = [], []
    for node in nodes:
        item = node.item
        named = Named(asset=item.asset, partition=item.partition, sha256=item.sha256)
        if node.problem:
            raise FerError(
                f"{item.key}: {node.problem}", code="lineage-broken", fix="materialize it again"
            )
        if node.artifact is None:
            raw.append(named)
            continue
        record = node.artifact.record
        inputs = (
            Named(asset=i.asset, partition=i.partition, sha256=i.sha256) for i in record.inputs
        )
        links.append(
            Link(
                **named.model_dump(),
                files=record.files,
                inputs=tuple(inputs),
                profile=record.profile,
                recipe=portable(record.recipe),
                code_version=record.code_version,
                created_at=record.created_at,
                splits=record.splits,
            )
        )
    return Chain(place=place, links=tuple(links), raw=tuple(raw))


def read_chain(folder: Path) -> Chain:
    """Read the chain beside a bundle; ``FerError`` where there is none."""
    path = folder / CHAIN_FILE
    try:
        return Chain.model_validate_json(read_file(path, MAX_CHAIN), context=path)
    except FileNotFoundError as error:
        raise FerError(
            f"the bundle has no {CHAIN_FILE}, which holds its lineage",
            code="missing-lineage",
            where=path,
            fix="trace a bundle of your own in its artifact root: fer trace student_bundle",
        ) from error
    except ValidationError as error:
        raise FerError(
            f"the lineage of the bundle is invalid: {first_fault(error)}",
            code="invalid-lineage",
            where=path,
            fix="install the package again",
        ) from error


def verify_chain(bundle: Bundle) -> Chain:
    """Return the chain beside a bundle with every hash checked; ``FerError`` on a mismatch."""
    chain = read_chain(bundle.folder)
    faults = list(_faults(bundle, chain))
    if faults:
        raise FerError(
            "; ".join(faults[:3]),
            code="bundle-changed",
            where=bundle.folder / CHAIN_FILE,
            fix="install the package again: these are not the files that were published",
        )
    return chain


def _faults(bundle: Bundle, chain: Chain) -> Iterator[str]:
    if not chain.links:
        yield "the chain is empty"
        return
    known = {(named.label, named.sha256) for named in chain.raw}
    for link in chain.links:
        if content_hash(link.files) != link.sha256:
            yield f"the files of {link.label} do not give its hash {link.sha256[:12]}"
        for named in link.inputs:
            if (named.label, named.sha256) not in known:
                yield f"{link.label} rests on {named.label} {named.sha256[:12]}, which is not here"
        known.add((link.label, link.sha256))
    for name in (MODEL_FILE, CARD_FILE):
        entry = chain.top.files.get(f"{chain.place}/{name}" if chain.place else name)
        digest = sha256_file(bundle.folder / name)
        if entry is None or entry.sha256 != digest:
            yield (
                f"{name} has sha256 {digest[:12]}, {chain.top.label} has "
                f"{entry.sha256[:12] if entry else 'no such file'}"
            )
