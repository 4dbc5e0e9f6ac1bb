"""The docs: links lead somewhere, pages can be found, commands do what their page shows."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


# -- links -------------------------------------------------------------------------------------


def links_of(text: str) -> list[str]:
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    return [*re.findall(r"\]\(([^)\s]+)\)", prose), *references_of(prose).values()]


def references_of(text: str) -> dict[str, str]:
    """What ``[text][name]`` leads to, by name."""
    return dict(re.findall(r"^\[([^]]+)\]: (\S+)$", text, re.MULTILINE))


def anchors_of(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    found: list[str] = re.findall(r'<a id="([^"]+)"></a>', text)
    for heading in re.findall(r"^#{1,6} (.+)$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("&lt;", "<")
        slug = re.sub(r"[^\w\- ]", "", plain.replace("&gt;", ">").lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


def broken(page: Path, link: str) -> bool:
    url = urlparse(link)
    if url.scheme:
        host = re.fullmatch(r"[\w.-]+(:\d+)?", url.netloc)
        return url.scheme not in ("http", "https") or host is None
    target = (page.parent / url.path).resolve() if url.path else page
    if not target.is_relative_to(ROOT) or not target.exists():
        return True
    return bool(url.fragment) and url.fragment not in anchors_of(target.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_link_and_anchor_leads_somewhere(page: Path) -> None:
    assert not [link for link in links_of(page.read_text("utf-8")) if broken(page, link)]


def test_the_readme_is_read_in_three_minutes() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 700


def words_of(text: str) -> int:
    """The words that a reader sees, without those of generated and measured parts."""
    text = re.sub(r"<!-- (generated|measured): .*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^\[[^]]+\]: \S+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"<!--.*?-->|<a id=[^>]*></a>", "", text)
    text = re.sub(r"\]\([^)\s]*\)|\]\[[^]]*\]", "]", text)
    return len(re.findall(r"\S*\w\S*", text))


def test_the_docs_stay_short() -> None:
    counted = {page.name: words_of(page.read_text("utf-8")) for page in PAGES[1:]}
    assert sum(counted.values()) <= 25_000, counted
    assert len(PAGES[1:]) <= 14, names(PAGES)


def test_words_are_counted_as_a_reader_sees_them() -> None:
    text = "One [two](three.md#four) | `five` - <!-- six -->\n\n[seven]: https://eight.org/nine\n"
    generated = "<!-- generated: a -->\nten\n<!-- end of generated -->\n"
    measured = "<!-- measured: b -->\neleven\n<!-- end of measured -->\ntwelve\n"
    assert words_of(text + generated + measured) == 4


def test_the_glossary_is_short_and_linked() -> None:
    text = (DOCS / "index.md").read_text("utf-8").split("## Glossary\n")[1]
    terms = re.findall(r'^- <a id="([a-z-]+)"></a>\*\*[\w ]+\*\*: [^.]+\.(?:$)', text, re.MULTILINE)
    assert len(terms) == len(re.findall("^- ", text, re.MULTILINE)), "one sentence for each term"
    assert 10 < len(terms) <= 30
    linked = {
        link.partition("#")[2]
        for page in PAGES
        for link in links_of(page.read_text("utf-8"))
        if link.startswith("index.md#") or (page.name == "index.md" and link.startswith("#"))
    }
    assert not set(terms) - linked


def test_the_link_check_finds_what_is_broken(tmp_path: Path) -> None:
    page = DOCS / "data.md"
    for link in (
        "nothing.md",
        "demo.md#nowhere",
        "#nowhere",
        "../../x.md",
        "ftp://x.org",
        "http:///",
    ):
        assert broken(page, link), link
    for link in (
        "demo.md",
        "#identity-and-groups",
        "../README.md#your-own-data",
        "https://x.org/a",
    ):
        assert not broken(page, link), link
    assert links_of("[a](b.md)\n```\n[c](d)\n```\n`[e](f)`\n[g]: h.md") == ["b.md", "h.md"]


def pages_of(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from pages_of(part)


def test_every_page_is_in_the_navigation_once() -> None:
    config = tomllib.loads((DOCS / "zensical.toml").read_text("utf-8"))
    assert sorted(pages_of(config["project"]["nav"])) == names(PAGES[1:])


# -- commands ----------------------------------------------------------------------------------


def commands_of(text: str) -> list[str]:
    """Commands of ``fer`` that a page or a help text shows, each on a line of its own."""
    shown = [*re.findall(r"`([^`\n]+)`", text), *"\n".join(FENCE.findall(text)).splitlines()]
    shown += re.findall(r"Example: (fer .+)", text)
    found = (re.fullmatch(r"(?:\$ )?(?:\.venv/bin/)?(fer .+?)(?: +#.*)?", line) for line in shown)
    return [match[1] for match in found if match]


def test_commands_are_typed_alike_in_every_shell() -> None:
    """Unquoted, zsh looks for files by brackets, and PowerShell splits at commas."""
    code = [path for name in ("fer_assets", "fer_ml") for path in (ROOT / name).rglob("*.py")]
    seen = 0
    for page in (*PAGES, *code):
        for command in commands_of(page.read_text("utf-8")):
            seen += 1
            bare = re.sub(r'"[^"]*"|\'[^\']*\'|\(.*\)', "", command)
            assert not re.search(r"\w\[|[a-z\]],[a-z]", bare), f"{page.name}: {command}"
    assert seen > 80
    (shown,) = commands_of("`fer materialize --select a[b]`")
    assert shown == "fer materialize --select a[b]"


#
# ``<!-- run -->`` before a console block: it is run, and each line that it shows must come out, in
# that order; ``...`` in a line stands for anything. ``<!-- run: exit 2 -->`` says how the last
# command ends, ``slow`` that it takes minutes. ``<!-- file: NAME -->``: the block is written there.

BLOCK = re.compile(
    r"^<!-- (?P<what>run|file)(?:: (?P<how>[^>]*))? -->\n```\w*\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    what: str
    how: str
    body: str

    @property
    def slow(self) -> bool:
        return "slow" in self.how

    @property
    def script(self) -> str:
        lines = [line[2:] for line in self.body.splitlines() if line.startswith(("$ ", "> "))]
        return "set -eo pipefail\n" + "\n".join(lines)

    @property
    def shown(self) -> list[str]:
        lines = [line for line in self.body.splitlines() if not line.startswith(("$ ", "> "))]
        return [line for line in map(_squeezed, lines) if line not in ("", "...")]

    @property
    def exit_code(self) -> int:
        found = re.search(r"exit (\d)", self.how)
        return int(found[1]) if found else 0


def _squeezed(line: str) -> str:
    return " ".join(line.split())


def blocks_of(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text("utf-8"))
    return [Block(match["what"], match["how"] or "", match["body"]) for match in found]


def first_missing(shown: list[str], output: str) -> str | None:
    """The first of ``shown`` that does not come out after the one before it."""
    lines = iter(_squeezed(line) for line in output.splitlines())
    for wanted in shown:
        pattern = ".*".join(re.escape(part) for part in wanted.split("..."))
        if not any(re.fullmatch(pattern, line) for line in lines):
            return wanted
    return None


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project, as after the installation."""
    folder = tmp_path / "project"
    (folder / "dagster_home").mkdir(parents=True)
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", folder / "dagster_home")
    shutil.copy(ROOT / "workspace.yaml", folder)
    shutil.copytree(ROOT / "claims", folder / "claims")
    return folder


def follow(page: Path, project: Path, *, slow: bool) -> None:
    """Do what a page says, in order."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "DAGSTER_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in blocks_of(page):
        if block.what == "file":
            target = project / block.how
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.body, encoding="utf-8")
        elif slow or not block.slow:
            done = subprocess.run(
                ["bash", "-c", block.script],
                cwd=project,
                env={**kept, "PATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            said = f"{page.name}:\n{block.script}\n{done.stdout}"
            assert done.returncode == block.exit_code, said
            missing = first_missing(block.shown, done.stdout)
            assert missing is None, f"{said}\nnot shown: {missing}"


WITH_COMMANDS = [page for page in PAGES if any(b.what == "run" for b in blocks_of(page))]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=names(WITH_COMMANDS))
def test_commands_do_what_their_page_shows(page: Path, project: Path) -> None:
    follow(page, project, slow=False)


@pytest.mark.proof
@pytest.mark.parametrize(
    "page",
    [page for page in WITH_COMMANDS if any(block.slow for block in blocks_of(page))],
    ids=lambda page: page.name,
)
def test_long_commands_do_what_their_page_shows(page: Path, project: Path) -> None:
    follow(page, project, slow=True)


def test_every_marked_block_is_read() -> None:
    for page in PAGES:
        marks = re.findall(r"^<!-- (?:run|file)\b.*-->$", page.read_text("utf-8"), re.MULTILINE)
        assert len(marks) == len(blocks_of(page)), page.name


def test_what_a_page_shows_is_compared_in_order() -> None:
    output = "one  1\ntwo\nthree abc\n"
    assert first_missing(["one 1", "three ..."], output) is None
    assert first_missing(["two", "one 1"], output) == "one 1"
    assert first_missing(["thre"], output) == "thre"


# -- tables and quotations ---------------------------------------------------------------------


def test_the_generated_parts_of_the_pages_are_those_of_the_code() -> None:
    """After a wanted change: python docs/reference.py."""
    reference = runpy.run_path(str(DOCS / "reference.py"))
    texts = [page.read_text("utf-8") for page in PAGES]
    parts = [part[1] for text in texts for part in reference["PART"].findall(text)]
    assert sorted(parts) == sorted(reference["PARTS"])
    for page, text in zip(PAGES, texts, strict=True):
        assert text == reference["written"](text), page.name


def texts_of_code() -> list[str]:
    """Every piece of text in the packages: whole constants, and those between ``{}``."""
    found = []
    for package in ("fer_ml", "fer_assets", "demo_app"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def test_every_message_that_a_heading_explains_is_one_of_the_code() -> None:
    text = (DOCS / "operate.md").read_text("utf-8")
    headings = [line for line in text.splitlines() if line.startswith("### `")]
    messages = [message for line in headings for message in re.findall(r"`([^`]+)`", line)]
    assert len(messages) > 20
    texts = texts_of_code()
    for message in messages:
        pieces = [piece.strip() for piece in message.split("...") if len(piece.strip(" :")) > 2]
        assert pieces, message
        for piece in pieces:
            assert any(piece in known for known in texts), f"{message}: no {piece!r} in the code"


def test_every_capability_of_the_first_pipeline_has_its_place() -> None:
    text = (DOCS / "first-pipeline.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d[\d, -]*) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    numbers: list[int] = []
    for held, _, _ in rows:
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", held):
            numbers += range(int(first), int(last or first) + 1)
    assert sorted(numbers) == list(range(1, 90))
    modules = {
        name
        for _, _, where in rows
        for name in re.findall(r"`((?:fer_ml|fer_assets|demo_app)[\w./]*)`", where)
    }
    assert len(modules) > 20
    for name in modules:
        path = ROOT / name.replace(".", "/")
        assert (ROOT / name).exists() or path.with_suffix(".py").exists() or path.is_dir(), name


def test_every_cell_about_a_tool_names_its_source() -> None:
    text = (DOCS / "peers.md").read_text("utf-8")
    references = references_of(text)
    found = re.search(r"^\| feature \|.*\n\|[ -|]+\|\n(?:\|.*\n)+", text, re.MULTILINE)
    assert found
    head, _, *rows = [line.strip("| ").split(" | ") for line in found[0].splitlines()]
    assert len(head) == 11 and len(rows) == 29
    for row in rows:
        assert len(row) == len(head), row
        for cell in row[1:]:
            verdict = re.fullmatch(r"\[(?:yes|no|partly|–)\]\[([\w-]+)\]", cell)
            assert verdict and verdict[1] in references, f"{row[0]}: {cell}"
    assert set(re.findall(r"\]\[([\w-]+)\]", text)) == set(references)


# -- tests that a page names -------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text("utf-8"))
    assert named or page.name != "operate.md"
    for file, test in named:
        text = (ROOT / file).read_text("utf-8")
        assert not test or f"def {test}(" in text, f"{file} has no {test}"


def test_every_threat_and_fault_says_once_what_becomes_of_it() -> None:
    reference = runpy.run_path(str(DOCS / "reference.py"))
    for marker in ("threat", "fault"):
        shown = reference["shown_by_tests"](marker)
        assert len(shown) > 15
        assert [what for what, outcomes, _ in shown if len(outcomes) != 1] == []


# -- the site ----------------------------------------------------------------------------------


def test_no_page_has_a_diagram_that_a_reader_would_fetch_a_program_for() -> None:
    """The site's theme loads Mermaid from another host where a page has such a block."""
    assert [page.name for page in PAGES if "```mermaid" in page.read_text("utf-8")] == []


def test_the_pictures_are_those_of_the_graph_and_of_the_imports() -> None:
    """After a wanted change: python docs/pictures.py."""
    drawing = runpy.run_path(str(DOCS / "pictures.py"))
    for name, (edges_of, title) in drawing["PICTURES"].items():
        edges = edges_of()
        shown = drawing["shown"](edges)
        picture = (DOCS / "pictures" / name).read_text("utf-8")
        assert picture == drawing["drawn"](shown, title), name
        # Where an edge is left out, another way leads there.
        graph = nx.DiGraph(shown)
        for above, below in edges:
            assert nx.has_path(graph, above, below), (above, below)


def test_the_first_page_has_the_two_commands_of_the_readme() -> None:
    lines = [
        [
            line
            for line in path.read_text("utf-8").splitlines()
            if line.startswith("python3 -m venv")
        ]
        for path in (ROOT / "README.md", DOCS / "index.md")
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 2


def test_a_report_becomes_a_part_of_the_page_of_results(tmp_path: Path) -> None:
    publish = runpy.run_path(str(DOCS / "publish.py"))["publish_report"]
    run, page = tmp_path / "run", tmp_path / "results.md"
    (run / "figures").mkdir(parents=True)
    (run / "figures" / "a.png").write_bytes(b"a")
    # A report's marks and numbers lead to pages of evidence, which are not published.
    evidence = "../../evidence"
    text = (
        f"# One\n\n[Five]({evidence}/numbers/a.html). [c1 ✓]({evidence}/claims/a.html)\n\n"
        f"![a](figures/a.png)\n\n## Claims\n\n| [c1]({evidence}/claims/a.html) | Five. |\n"
    )
    (run / "report.md").write_text(text, "utf-8")
    part = "<!-- measured: p -->\nold\n<!-- end of measured -->\n"
    page.write_text(f"# Results\n\n{part}{part.replace(' p ', ' q ')}", "utf-8")
    publish(run, "p", page)
    published = page.read_text("utf-8")
    assert published.startswith("# Results\n\n<!-- measured: p -->\n## One\n")
    assert published.endswith(part.replace(" p ", " q "))
    assert "\nFive. [c1 ✓]" in published and "evidence" not in published
    assert "### Claims\n" in published and (tmp_path / "figures/p/a.png").read_bytes() == b"a"
    assert "p-c1" in anchors_of(published) and links_of(published) == ["#p-c1", "figures/p/a.png"]


def test_pages_that_code_names_exist() -> None:
    folders = ("fer_ml", "fer_assets", "demo_app", "benchmarks", "tests", "docs", "claims")
    kinds = {".py", ".toml", ".yaml", ".j2", ".js", ".md"}
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    named = {
        (str(path.relative_to(ROOT)), page)
        for path in (*files, ROOT / "README.md", ROOT / "pyproject.toml")
        if path.suffix in kinds and path.is_file()
        for page in re.findall(r"\bdocs/[\w-]+\.md\b", path.read_text("utf-8"))
    }
    assert len(named) > 20
    assert not [pair for pair in sorted(named) if not (ROOT / pair[1]).is_file()]
