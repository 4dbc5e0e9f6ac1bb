"""Helpers for templates. Everything that a report shows of the run comes through them."""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.base.reading import open_text, read_file
from fer_ml.claims.pointers import pointer_token, resolve_pointer, walk_pointer
from fer_ml.evidence.address import FROM_REPORT, page_of, page_of_number
from fer_ml.metrics.comparability import look_note, networks_note, unequal_budgets
from fer_ml.metrics.resampling import LEVEL, PAIRED
from fer_ml.privacy.faces import shows_faces
from fer_ml.report.cells import (
    benchmark_numbers,
    benchmark_rows,
    bounded,
    cell,
    claim_text,
    comparison_numbers,
    f3,
    linked,
    looked_mark,
    number_of,
    objects_at,
    p_value,
    rows_of,
    shown_value,
    tested,
    words,
)
from fer_ml.report.literals import without_numbers
from fer_ml.report.markdown import Markdown, code, escape, table
from fer_ml.report.results import PAIRS_FILE, Results, interval_of, paired_with, results_of
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import word_of
from fer_ml.storage.record import asset_label
from fer_ml.storage.store import RunFolder

PICTURES = (".png", ".jpg")
SHOWS = ("metrics", "classes", "sources", "paired")


class Claim(Markdown):
    """A claim in a template: prints its sentence with its mark.

    ``value`` prints the number at its precision with the mark. ``mark`` prints the mark alone: a
    link from the claim's number to its evidence, with its status. ``status`` is for conditions.
    """

    value: Markdown
    mark: Markdown
    status: str


@dataclass
class References:
    """The helpers of one report, and a record of everything they returned.

    ``input`` returns an artifact that the report may refer to, by asset and partition; ``profile``
    is the profile's name, ``drawn`` whether its faces are synthetic, ``plan`` a text on the plan.
    """

    input: Callable[[str, str | None], Artifact]
    run: RunFolder
    profile: str
    drawn: bool
    plan: str
    given: list[dict[str, Any]] = field(default_factory=list)
    _count: dict[str, int] = field(default_factory=lambda: {"Table": 0, "Figure": 0})

    def __post_init__(self) -> None:
        document = self.input("report_claims", None).read_json("claims.json")
        self.title: str = document["title"]
        self.names: tuple[str, ...] = tuple(document.get("names", ()))
        self.lineage: list[dict[str, Any]] = document.get("lineage", [])
        self.claims: dict[str, dict[str, Any]] = {c["id"]: c for c in document["claims"]}

    def helpers(self) -> dict[str, Any]:
        """Return the helpers by the names that a template uses."""
        return {
            "title": without_numbers(self.title, "the title of the claims", self.names),
            "profile": code(self.profile),
            "version": code(f"fer-platform {version('fer-platform')}"),
            "drawn": self.drawn,
            "claims": tuple(self.claims),
            "claim": self.claim,
            "value": self.value,
            "table": self.table,
            "figure": self.figure,
            "gate": self.gate,
            "known": self.known,
            "stated": self.stated,
            "sources": self.sources,
        }

    def claim(self, name: str) -> Claim:
        """Return the sentence of a claim with its mark.

        ``.value`` is the number with its mark, ``.mark`` the mark alone, and ``.status`` is for
        conditions.
        """
        if name not in self.claims:
            raise FerError(
                f"unknown claim {name!r}", code="unknown-claim", allowed=", ".join(self.claims)
            )
        entry = self.claims[name]
        self.given.append({"kind": "claim", "id": name, "status": entry["status"]})
        mark = self._mark(name)
        made = Claim(f"{escape(entry['sentence'])} {mark}")
        made.value, made.mark = Markdown(f"{claim_text(entry)} {mark}"), mark
        made.status = entry["status"]
        return made

    def value(
        self, asset: str, file: str, pointer: str, *, decimals: int | None = None
    ) -> Markdown:
        """Return a number or text at a JSON pointer in an artifact; fractions need ``decimals``."""
        artifact = self._artifact(asset)
        try:
            *around, target = walk_pointer(artifact.read_json(file), pointer)
        except KeyError as error:
            raise FerError(
                f"the file {file} of {asset} has no value at {pointer!r}",
                code="unknown-pointer",
                fix="correct the pointer",
            ) from error
        shown = shown_value(target, decimals, f"{asset} {file} {pointer}")
        given = {"pointer": pointer, "printed": str(shown)}
        if not isinstance(target, int | float):
            self._give("value", artifact, file, **given)
            return shown
        self._give("value", artifact, file, **given, numbers={pointer: str(shown)})
        page = _page(artifact, file, pointer)
        return Markdown(f"{linked(shown, page)}{looked_mark(around, target)}")

    def known(self, asset: str, file: str, pointer: str) -> bool:
        """Return whether a JSON file of an artifact has a value at a pointer, for conditions."""
        try:
            return resolve_pointer(self._artifact(asset).read_json(file), pointer) is not None
        except KeyError:
            return False

    def gate(self, asset: str, rule: str) -> Markdown:
        """Return a gate's outcome with value and limit, or why it is not applicable."""
        artifact = self._artifact(asset)
        receipts = artifact.receipts()
        if rule not in receipts:
            raise FerError(
                f"{asset} has no gate {rule!r}", code="unknown-gate", allowed=", ".join(receipts)
            )
        receipt = receipts[rule]
        self._give("gate", artifact, None, rule=rule, passed=receipt.passed)
        if receipt.passed is None:
            return Markdown(f"{word_of(None)}: {escape(receipt.detail)}")
        value, limit = (
            escape(side if isinstance(side, str) else f"{side:g}")
            for side in (receipt.value, receipt.limit)
        )
        return Markdown(f"{word_of(receipt.passed)}: {value}, limit {limit}")

    def stated(self, text: str, *, why: str) -> Markdown:
        """Return text with numbers that no artifact holds, such as a date; ``why`` is recorded."""
        if not why.strip():
            raise FerError(f"stated({text!r}) has an empty why=", code="missing-reason")
        self.given.append({"kind": "stated", "text": text, "why": why})
        return escape(text)

    def figure(self, asset: str, file: str, caption: str) -> Markdown:
        """Copy an artifact's picture beside the report; return it with a caption of its source."""
        artifact = self._artifact(asset)
        source = artifact.file(file)
        if source.suffix not in PICTURES:
            raise FerError(
                f"{file} is not a picture", code="unknown-suffix", allowed=", ".join(PICTURES)
            )
        shown = without_numbers(caption, "the caption", self.names)
        if shows_faces(file) and not self.drawn:
            raise FerError(
                f"{file} shows faces of people",
                code="faces-in-report",
                fix="leave it out: a report is passed on, and faces are personal data",
            )
        name = f"figures/{re.sub(r'[^A-Za-z0-9.]+', '_', f'{asset}_{file}')}"
        self.run.path(name).write_bytes(read_file(source))
        self._give("figure", artifact, file, copy=name)
        text = self._caption("Figure", f"{shown}. From {_origin(artifact, file)}.")
        return Markdown(f"![{shown}]({name})\n\n{text}")

    def table(
        self,
        asset: str,
        file: str | None = None,
        *,
        set: str | None = None,
        show: str = "metrics",
        to: str | None = None,
        columns: Sequence[str] | None = None,
        rows: int | None = None,
        decimals: int | None = None,
        pointer: str = "",
    ) -> Markdown:
        """Return a table of an artifact, with a caption that states its contents.

        - ``'benchmark'`` needs ``set``. ``show`` is ``metrics``, ``classes`` (F1 by class),
          ``sources`` (macro-F1 by source), or ``paired``: each model minus the model ``to`` on the
          same faces, with intervals. Models that may not be compared get separate tables.
        - ``'comparison/NAME'`` shows the arms, with their means and differences.
        - ``'report_claims'`` shows all claims.
        - A csv ``file`` of any asset is shown with the given ``columns``, first ``rows`` and
          ``decimals``; a JSON ``file`` as the named objects at ``pointer``. Without ``file`` the
          artifact's files are listed.
        """
        artifact = self._artifact(asset)
        if asset == "report_claims" and file is None:
            return self._claims_table(artifact)
        if asset == "benchmark" and file is None:
            return self._benchmark_table(artifact, set, show, to)
        if asset.startswith("comparison/") and file is None:
            return self._comparison_table(artifact)
        if file is None:
            return self._files_table(artifact)
        if file.endswith(".json"):
            return self._json_table(artifact, file, pointer, columns, decimals)
        return self._csv_table(artifact, file, columns, rows, decimals)

    def sources(self) -> Markdown:
        """Return the list of all artifacts referred to so far, with hashes, and stated texts."""
        used: dict[tuple[str, str], dict[str, int]] = {}
        for given in self.given:
            if "asset" in given:
                kinds = used.setdefault((given["asset"], given["sha256"]), {})
                kinds[given["kind"]] = kinds.get(given["kind"], 0) + 1
        shown = [
            (
                code(asset),
                code(sha256[:12]),
                ", ".join(f"{n} {k}{'s' * (n > 1)}" for k, n in kinds.items()),
            )
            for (asset, sha256), kinds in sorted(used.items())
        ]
        text = str(table(("artifact", "bytes", "gives"), shown, ()))
        if self.plan:
            text += f"\n\n{self.plan}"
        stated = [
            f"- {escape(given['text'])}: {escape(given['why'])}"
            for given in self.given
            if given["kind"] == "stated"
        ]
        if stated:
            text += "\n\nStated by hand:\n\n" + "\n".join(stated)
        return Markdown(text)

    def _artifact(self, label: str) -> Artifact:
        match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]+)\])?", label)
        if match is None:
            raise FerError(
                f"{label!r} is not the name of an asset",
                code="invalid-asset-label",
                allowed="asset, or asset[partition]",
            )
        return self.input(match[1], match[2])

    def _give(self, kind: str, artifact: Artifact, file: str | None, **more: Any) -> None:
        given: dict[str, Any] = {"kind": kind, "asset": artifact.key, "sha256": artifact.sha256}
        if file is not None:
            given |= {"file": file, "file_sha256": artifact.record.files[file].sha256}
        self.given.append(given | more)

    def _mark(self, name: str) -> Markdown:
        number, claim = list(self.claims).index(name) + 1, self.claims[name]
        sign = "✓" if claim["status"] == "grounded" else f"✗ {words(claim['status'])}"
        looked = looked_mark([claim.get("measured_on")])
        return Markdown(f"[c{number} {sign}]({FROM_REPORT}{page_of(name)}){looked}")

    def _caption(self, word: str, text: str) -> str:
        self._count[word] += 1
        return f"*{word} {self._count[word]}. {text}*"

    def _claims_table(self, artifact: Artifact) -> Markdown:
        rows = []
        for number, (name, claim) in enumerate(self.claims.items(), 1):
            cited = claim["artifact"]
            label = asset_label(cited["asset"], cited["partition"])
            place = " ".join(code(p) for p in (label, cited["file"] + cited["pointer"]) if p) or "-"
            sign = "✓" if claim["status"] == "grounded" else "✗"
            reason = f": {escape(claim['reason'])}" if claim["reason"] else ""
            rows.append(
                (
                    f"[c{number}]({FROM_REPORT}{page_of(name)})",
                    f"{escape(claim['sentence'])} {code(name)}",
                    f"{sign} {words(claim['status'])}{reason}{_looked(claim)}",
                    place,
                    code((cited["sha256"] or "-")[:12]),
                )
            )
        grounded = sum(claim["status"] == "grounded" for claim in self.claims.values())
        text = f"{grounded} of {len(rows)} claims grounded; {_origin(artifact, 'claims.json')}."
        self._give("table", artifact, "claims.json")
        caption = self._caption("Table", text)
        shown = table(("mark", "claim", "status", "from", "bytes"), rows, ())
        return Markdown(f"{caption}\n\n{shown}")

    def _benchmark_table(
        self, artifact: Artifact, name: str | None, show: str, to: str | None
    ) -> Markdown:
        if name is None or show not in SHOWS or (show == "paired") != (to is not None):
            raise FerError(
                "table('benchmark') needs set=, one of show=, and to= for show='paired' alone",
                code="invalid-table-arguments",
                allowed=f"show of {', '.join(SHOWS)}; to of a model of the benchmark",
            )
        tables = results_of(artifact.read_json("benchmark.json"), name)
        if to is not None:
            return self._paired_table(artifact, tables, to)
        numbers = dict(pair for results in tables for pair in benchmark_numbers(results, show))
        self._give("table", artifact, "benchmark.json", set=name, show=show, numbers=numbers)
        parts = []
        for results in tables:
            pages = {m: _page(artifact, "benchmark.json", p) for m, p in results.pointers.items()}
            text = self._measured_on(results, show)
            if results.apart:
                text += f" Not to be compared with the table before: {'; '.join(results.apart)}."
            parts += [self._caption("Table", text), str(benchmark_rows(results, show, pages))]
        return Markdown("\n\n".join(parts))

    def _paired_table(self, artifact: Artifact, tables: list[Results], to: str) -> Markdown:
        """Return each model minus the one called ``to``, for models that may share its table."""
        results = next((each for each in tables if to in each.entries), None)
        if results is None:
            known = ", ".join(model for each in tables for model in each.entries)
            raise FerError(
                f"{tables[0].name} has no model {to!r}", code="unknown-model", allowed=known
            )
        with open_text(artifact.file(PAIRS_FILE)) as lines:
            pairs = paired_with(csv.DictReader(lines), results.name, to)
        self._give("table", artifact, PAIRS_FILE, set=results.name, show="paired", to=to)
        rows = [
            [
                code(model),
                *(bounded(gaps[metric], "difference") for metric in PAIRED),
                p_value(gaps["accuracy"]["mcnemar_p_holm"]),
            ]
            for model, gaps in pairs.items()
        ]
        text = (
            f"{self._measured_on(results, 'paired')} Less {code(to)}, on the same faces; NLL and "
            f"ECE are scaled with T. In brackets: {LEVEL:.0%} intervals of the difference, paired "
            "and resampled by group, each on its own. p: McNemar's exact test of who is right "
            f"where, corrected for {len(pairs)} tests (Holm). All of it is about these very "
            "networks: other seeds may give another order."
        )
        header = ["model", "accuracy", "macro-F1", "NLL", "ECE", "p"]
        shown = table(header, rows, range(1, len(header)))
        return Markdown(f"{self._caption('Table', text)}\n\n{shown}")

    def _comparison_table(self, artifact: Artifact) -> Markdown:
        comparison = artifact.read_json("comparison.json")
        numbers = dict(comparison_numbers(comparison))
        self._give("table", artifact, "comparison.json", numbers=numbers)
        steps = {step["arm"]: step for step in comparison["steps"]}
        rows = [
            [
                linked(code(arm), _page(artifact, "comparison.json", f"/arms/{arm}")),
                str(comparison["runs"]),
                bounded(metrics["macro_f1"], "mean"),
                *(f3(metrics[metric]["mean"]) for metric in ("accuracy", "nll", "ece")),
                *(
                    tested(gaps["macro_f1"]) if gaps else "-"
                    for gaps in (comparison["against_baseline"].get(arm), steps.get(arm))
                ),
            ]
            for arm, metrics in comparison["arms"].items()
        ]
        header = ["arm", "seeds", "macro-F1", "accuracy", "NLL", "ECE"]
        header += [f"macro-F1 less {escape(comparison['baseline'])}'s", "less the arm's before"]
        text = (
            f"{_origin(artifact, 'comparison.json')}. {escape(comparison['caption'])}. NLL and ECE "
            "are scaled with T. "
        )
        if comparison["runs"] > 1:
            text += (
                f"In brackets: {comparison['level']:.0%} intervals over runs and faces, each on "
                f"its own. p is corrected for {comparison['tests']} differences (Holm)."
            )
        else:
            text += "One run a side: nothing is shown of the methods, and there is no verdict."
        if self.drawn:
            text += " The faces are drawn: synthetic."
        shown = table(header, rows, range(1, len(header)))
        return Markdown(f"{self._caption('Table', text)}\n\n{shown}")

    def _measured_on(self, results: Results, show: str) -> str:
        """Return evaluation set, split and n, and why the numbers are not test results, if so."""
        entry = results.first
        text = (
            f"{escape(results.name)}: {code(entry['manifest'])} "
            f"{code(entry['manifest_sha256'][:12])}, split {escape(entry['split'])}, "
            f"{escape(entry['rows'])} rows, n = {entry['n']:,}."
        )
        if show == "metrics" and interval_of(entry, "raw", "macro_f1"):
            text += (
                f" In brackets: {LEVEL:.0%} intervals, resampled by group. By chance: the scaled "
                "ECE of a model whose confidences are all true, on as many rows, its mean and, in "
                f"brackets, its 95th percentile. {escape(networks_note(results.entries))}"
            ).rstrip()
        if entry["selection_split"]:
            text += " Models were chosen on this split: these are no test results."
        looked = look_note(entry)
        if looked:
            text += f" These rows were {escape(looked)}."
        budgets = unequal_budgets(results.entries)
        if budgets:
            text += f" Not of one training budget: {escape(budgets)}."
        if self.drawn:
            text += " The faces are drawn: synthetic."
        return text

    def _files_table(self, artifact: Artifact) -> Markdown:
        self._give("table", artifact, None)
        rows = [
            (code(name), f"{entry.bytes:,}", code(entry.sha256[:12]))
            for name, entry in artifact.record.files.items()
        ]
        caption = self._caption("Table", f"Files of {_origin(artifact, None)}.")
        return Markdown(f"{caption}\n\n{table(('file', 'bytes', 'sha256'), rows, (1,))}")

    def _json_table(
        self,
        artifact: Artifact,
        file: str,
        pointer: str,
        columns: Sequence[str] | None,
        decimals: int | None,
    ) -> Markdown:
        document = artifact.read_json(file)
        where = f"{artifact.key} {file} {pointer}"
        objects, names = objects_at(document, pointer, columns, where)
        cells = {
            name: [shown_value(row.get(key), decimals, f"{where} {key}") for key in names]
            for name, row in objects.items()
        }
        numbers = {
            f"{pointer}/{pointer_token(name)}/{pointer_token(key)}": str(text)
            for name, texts in cells.items()
            for key, text in zip(names, texts, strict=True)
            if isinstance(objects[name].get(key), int | float)
        }
        self._give("table", artifact, file, pointer=pointer, columns=names, numbers=numbers)
        rows = [
            [linked(code(name), _page(artifact, file, pointer)) if numbers else code(name), *texts]
            for name, texts in cells.items()
        ]
        numeric = [
            index
            for index, key in enumerate(names, 1)
            if all(isinstance(row.get(key), int | float | None) for row in objects.values())
        ]
        measured = ""
        if "split" in document and "n" in document:
            measured = f", split {escape(document['split'])}, n = {document['n']:,}"
            measured += _looked({"measured_on": document})
        caption = self._caption("Table", f"{_origin(artifact, file)}{measured}.")
        return Markdown(f"{caption}\n\n{table(['name', *map(escape, names)], rows, numeric)}")

    def _csv_table(
        self,
        artifact: Artifact,
        file: str,
        columns: Sequence[str] | None,
        rows: int | None,
        decimals: int | None,
    ) -> Markdown:
        names, body, more = rows_of(artifact.file(file), columns, rows)
        self._give("table", artifact, file, columns=names, rows=len(body))
        count = (
            f"first {len(body):,} of {len(body) + more:,} rows" if more else f"{len(body):,} rows"
        )
        numeric = [i for i in range(len(names)) if body and all(number_of(row[i]) for row in body)]
        cells = [[cell(text, decimals) for text in row] for row in body]
        caption = self._caption("Table", f"{_origin(artifact, file)}, {count}.")
        shown = table([escape(name) for name in names], cells, numeric)
        return Markdown(f"{caption}\n\n{shown}")


def _page(artifact: Artifact, file: str, pointer: str) -> str:
    """Return the address of the evidence page of the numbers at or below a pointer."""
    return FROM_REPORT + page_of_number(artifact.key, file, pointer)


def _looked(claim: dict[str, Any]) -> str:
    return f"; {escape(looked)}" if (looked := look_note(claim.get("measured_on") or {})) else ""


def _origin(artifact: Artifact, file: str | None) -> str:
    named = f" {code(file)}" if file else ""
    return f"{code(artifact.key)}{named}, bytes {code(artifact.sha256[:12])}"
