"""The evidence as a folder of pages without a server: a page per claim, an index, a face page.

They refer to pictures of the image pool beside them (``../cleaned``) and contain none. So a purged
picture is gone from every page, and a folder that is passed on shows no face unless asked for.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fer_ml.base.errors import FerError
from fer_ml.base.files import move, orphaned, owned_name
from fer_ml.base.reading import read_file
from fer_ml.claims.graph import Traced, page
from fer_ml.claims.model import ComparisonClaim, FigureClaim, NonInferiorityClaim, SumClaim
from fer_ml.claims.resolved import Resolved
from fer_ml.claims.trace import Node, walk
from fer_ml.claims.verify import CLAIMS_ASSET, Verified
from fer_ml.evidence.address import FOLDER, NUMBERS, STATE_FILE
from fer_ml.evidence.rows import Evidence, Figure, Term, evidence_of
from fer_ml.evidence.tables import Tables
from fer_ml.figures.page import render_page
from fer_ml.privacy.faces import shows_faces
from fer_ml.privacy.log import Log
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import Store

#: Claims on one page of the index.
INDEX_CLAIMS = 1000
_HERE = Path(__file__).parent
#: Looks at a folder before it is somebody's: another writer may take it away in between.
LOOKS = 5
_PARTS = ("evidence.js", "evidence.css")


@dataclass(frozen=True)
class Around:
    """The settings of the pages besides the claims.

    ``faces``: pages may show pictures of the image pool; ``sheets``: copies of contact sheets lie
    beside them. ``report`` is the address of the report relative to the pages, if there is one.
    ``local``: the pages stay on this machine and may name its folders. ``state`` distinguishes them
    from pages of another time.
    """

    profile: str
    drawn: bool
    faces: bool
    sheets: bool = False
    report: str = ""
    purged: Log = field(default_factory=Log)
    local: bool = True
    state: str = ""


def write_evidence(
    base: Path,
    store: Store,
    verified: Verified,
    around: Around,
    only: Sequence[str] = (),
    numbers: Sequence[Resolved] = (),
) -> set[str]:
    """Write ``evidence/`` into ``base``, whole or not at all; return the pictures it shows.

    ``only`` lists the ids of claims that get a page (default: all). ``numbers`` are those of the
    report (``numbers_of``), which get pages of their own.
    """
    known = [resolved.claim.id for resolved in verified.claims]
    if unknown := [name for name in only if name not in known]:
        raise FerError(
            f"unknown claim {unknown[0]!r}", code="unknown-claim", allowed=", ".join(known)
        )
    base.mkdir(parents=True, exist_ok=True)
    made = base / f".{owned_name()}"
    try:
        for name in ("claims", "data", "trace", NUMBERS):
            (made / name).mkdir(parents=True)
        writer = _Writer(made, store, around, Tables(store, made / "data"))
        by_claim = evidence_of(store, verified.claims)
        printed = evidence_of(store, numbers)
        writer.write([by_claim[name] for name in only or known], list(printed.values()))
        replace_folder(made, base / FOLDER)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return writer.tables.images


def replace_folder(made: Path, target: Path, sign: str = _PARTS[0]) -> None:
    """Rename ``made`` to ``target``, replacing an earlier one that contains a file ``sign``.

    If several processes do so at once, the last one's folder stays.
    """
    for beside in target.parent.iterdir():
        if orphaned(beside.name):  # Of a writer that was killed.
            shutil.rmtree(beside, ignore_errors=True)
    while made.exists():
        old = target.with_name(f".{owned_name()}")
        try:
            if os.path.lexists(target):
                if not _ours(target, sign):
                    raise FerError(
                        "the folder exists, and holds no pages of evidence",
                        code="output-exists",
                        where=target,
                        fix="name a new folder",
                    )
                move(target, old)
            move(made, target)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                if os.path.lexists(old):  # The earlier pages stay.
                    move(old, target)
                raise
        # They are older than those that are there now, of whichever writer.
        shutil.rmtree(old, ignore_errors=True)


def _ours(target: Path, sign: str) -> bool:
    """Return whether a folder is a written one, or empty, or in use by another writer."""
    for _ in range(LOOKS):
        if not os.path.lexists(target) or (target / sign).is_file():
            return True
        with suppress(OSError):
            if not any(target.iterdir()):
                return True
        time.sleep(0.001)
    return False


@dataclass(frozen=True)
class _Writer:
    """Writes the pages of one folder."""

    folder: Path
    store: Store
    around: Around
    tables: Tables
    terms: dict[str, int] = field(default_factory=dict)
    assets: dict[str, int] = field(default_factory=dict)

    def write(self, claims: Sequence[Evidence], numbers: Sequence[Evidence]) -> None:
        """Write every page, its data, and shared files; ``numbers`` are those of the report."""
        for name in _PARTS:
            (self.folder / name).write_bytes(read_file(_HERE / name))
        (self.folder / STATE_FILE).write_text(self.around.state, encoding="utf-8")
        before = self._before()
        index = [self._claim(e, "claims", before.get(e.resolved.claim.id)) for e in claims]
        index += [self._claim(evidence, NUMBERS) for evidence in numbers]
        self.tables.write_manifests()
        contents = {
            "tables": self.tables.to_json(self.tables.known),
            "claims": index,
            "terms": [json.loads(text) for text in self.terms],
            "assets": [json.loads(text) for text in self.assets],
            "roots": self._roots([*claims, *numbers]) if self.around.local else {},
            "faces": self.around.faces,
            "purged": self.purged,
        }
        text = f"fer.index({json.dumps(contents)});\n"
        (self.folder / "data" / "index.js").write_text(text, encoding="utf-8")
        self._page("face.html", "face.html", title="A face", page={"kind": "face"}, up="")
        self._index(claims, numbers)

    @cached_property
    def purged(self) -> dict[str, str]:
        """The day on which a face was purged, by its sample and by its photo."""
        return self.tables.purged(self.around.purged.photos())

    def _before(self) -> dict[str, dict[str, Any]]:
        """Return the last kept entry of each claim, by its id."""
        kept = whole_current(self.store, CLAIMS_ASSET)
        if kept is None or "claims.json" not in kept.record.files:
            return {}
        at = {"at": kept.record.created_at[:16].replace("T", " ")}
        return {entry["id"]: entry | at for entry in kept.read_json("claims.json")["claims"]}

    def _roots(self, all_evidence: Sequence[Evidence]) -> dict[str, str]:
        """Return the last known raw folder of each source."""
        nodes = walk(node for evidence in all_evidence for node in evidence.resolved.traces)
        return {n.item.key.removeprefix("raw/"): n.item.root for n in nodes if n.item.root}

    def _claim(
        self, evidence: Evidence, folder: str, before: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write the page of a claim or of numbers; return its entry in the index of faces."""
        resolved, claim = evidence.resolved, evidence.resolved.claim
        terms = [self._term(term) for figure in evidence.figures for term in figure.terms]
        terms = list({json.dumps(term): term for term in terms}.values())
        data: dict[str, Any] = {
            "kind": "claim",
            "root": "../../",
            "up": "../",
            "faces": self.around.faces,
            "purged": self.purged,
            "compares": isinstance(claim, ComparisonClaim | NonInferiorityClaim),
            "figures": [self._figure(evidence, figure) for figure in evidence.figures],
            "terms": terms + self._others(evidence, terms),
        }
        names = [term["table"] for term in data["terms"]]
        data["tables"] = self.tables.to_json(names)
        self._page(
            page := f"{folder}/{claim.id}.html",
            "claim.html",
            title=title_of(resolved, folder),
            claimed=folder != NUMBERS,
            page=data,
            up="../",
            e=evidence,
            held=resolved.to_json(),
            before=before if before and before["status"] == "grounded" else None,
            short=_short,
            computables=[bool(figure["formula"]) for figure in data["figures"]],
            settings=getattr(claim, "settings", {}),
            terms=[self._label(term) for term in data["terms"]],
            picture=self._picture(resolved),
            gates=[(node, _gates(node)) for node in resolved.traces],
            trace=self._trace(resolved.traces),
        )
        assets = list(dict.fromkeys(node.item.key for node in walk(resolved.traces)))
        entry = {"page": page, "sentence": title_of(resolved, folder), "status": resolved.status}
        # Many claims share them: each is written once.
        rows, path = self.terms.setdefault(json.dumps(terms), len(self.terms)), json.dumps(assets)
        of = {"terms": rows, "assets": self.assets.setdefault(path, len(self.assets))}
        return {**entry, "claimed": folder != NUMBERS, **of}

    def _label(self, term: dict[str, Any]) -> tuple[str, str]:
        """Return the title of a table of rows, and its file."""
        table = self.tables.known[term["table"]]
        return table.name or table.asset, table.file

    def _picture(self, resolved: Resolved) -> str:
        """Copy the picture that a claim is about, where it may be shown; return its address."""
        claim, artifact = resolved.claim, resolved.artifact
        if not isinstance(claim, FigureClaim) or artifact is None or resolved.status != "grounded":
            return ""
        name = str(claim.file)
        if not name.endswith((".png", ".jpg")) or (shows_faces(name) and not self.around.sheets):
            return ""
        copy = f"data/{artifact.record.files[name].sha256[:20]}{name[-4:]}"
        (self.folder / copy).write_bytes(read_file(artifact.file(name)))
        return copy

    def _term(self, term: Term) -> dict[str, Any]:
        rows = term.rows
        return {
            "table": self.tables.add(rows),
            "where": dict(rows.where),
            "unlabelled": rows.unlabelled,
            "temperature": term.temperature,
            "weights": term.weights,
            "bias": term.bias,
        }

    def _others(self, evidence: Evidence, terms: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the other models' answers on the same rows."""
        used = {term["table"] for term in terms}
        others = {}
        for rows in evidence.rows:
            for name in self.tables.beside(rows)[1:]:
                if name not in used:
                    table = self.tables.known[name]
                    term = {
                        "where": dict(rows.where),
                        "unlabelled": False,
                        "weights": (),
                        "bias": (),
                    }
                    others[name] = {"table": name, "temperature": table.temperature, **term}
        return list(others.values())

    def _figure(self, evidence: Evidence, figure: Figure) -> dict[str, Any]:
        formula: dict[str, Any] | None = None
        if figure.formula is not None:
            sides = {
                side: [self._term(t) for t in getattr(figure.formula, side)] for side in _SIDES
            }
            formula = {"take": figure.formula.take, "key": figure.formula.key, **sides}
        elif isinstance(evidence.resolved.claim, SumClaim) and figure is evidence.figures[0]:
            formula = {"take": "parts", "key": "", "plus": [], "minus": []}
        value = figure.number.value
        return {"name": figure.name, "printed": figure.printed, "value": value, "formula": formula}

    def _trace(self, roots: tuple[Node, ...]) -> str:
        """Write the page of a trace, shared by claims on the same artifacts; return its address."""
        if not roots:
            return ""
        key = "".join(f"{asset} {sha256}" for asset, sha256 in (node.identity for node in roots))
        name = f"trace/{hashlib.sha256(key.encode()).hexdigest()[:16]}.html"
        if not (self.folder / name).exists():
            title = f"What {', '.join(node.item.key for node in roots)} rests on"
            text = page(Traced(roots), title, "../evidence.js", local=self.around.local)
            (self.folder / name).write_text(text, encoding="utf-8")
        return name

    def _index(self, claims: Sequence[Evidence], numbers: Sequence[Evidence]) -> None:
        parts = [claims[i : i + INDEX_CLAIMS] for i in range(0, len(claims), INDEX_CLAIMS)]
        names = [f"index{f'-{i + 1}' if i else ''}.html" for i in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            self._page(
                name,
                "index.html",
                title="The evidence behind each claim",
                page={"kind": "index"},
                up="",
                claims=[evidence.resolved for evidence in part],
                pages=names if len(names) > 1 else [],
                here=name,
                numbers=[evidence.resolved for evidence in numbers],
                count=len(claims),
                grounded=sum(e.resolved.status == "grounded" for e in claims),
            )

    def _page(self, name: str, template: str, *, page: Mapping[str, Any], **values: Any) -> None:
        # In a script nothing but its end is read by the parser of HTML.
        data = Markup(json.dumps(page).replace("<", "\\u003c"))
        values |= {"page": data, "around": self.around, "kind": page["kind"]}
        text = render_page(_HERE / f"{template}.j2", **values)
        (self.folder / name).write_text(text, encoding="utf-8")


_SIDES = ("plus", "minus")


def title_of(resolved: Resolved, folder: str) -> str:
    """Return a claim's sentence; for numbers of a report, their subject."""
    return str(resolved.claim.section) if folder == NUMBERS else resolved.sentence()


def _short(value: float | str) -> str:
    """Format a number with six digits."""
    return value if isinstance(value, str) else f"{value:,.6g}"


def _gates(node: Node) -> list[dict[str, Any]]:
    """Return the verdicts on the bytes of a step, failures first."""
    if node.artifact is None:
        return []
    asked = {gate.rule: gate.asks for gate in node.artifact.demands.of(node.item.asset)}
    verdicts = [
        {**receipt.model_dump(), "asks": asked.get(rule, "")}
        for rule, receipt in node.receipts.items()
    ]
    order = {False: 0, None: 2, True: 1}
    return sorted(verdicts, key=lambda held: (order[held["passed"]], held["rule"]))


def whole_current(store: Store, asset: str) -> Artifact | None:
    """Return the current artifact of an asset if its bytes match its record, else ``None``."""
    with suppress(FerError):
        artifact = store.current(asset) if store.root.is_dir() else None
        return artifact if artifact is None or artifact.damage() is None else None
    return None


def report_of(store: Store) -> str:
    """Return the address of the current report relative to the pages, or an empty text."""
    report = whole_current(store, "report")
    if report is None or "report.html" not in report.record.files:
        return ""
    return f"../{report.folder.relative_to(store.root).as_posix()}/report.html"
