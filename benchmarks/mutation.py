"""Mutation test, on demand: do tests notice a wrong gate, store or claim?

pip install cosmic-ray python benchmarks/mutation.py FOLDER --mutants 200 --seed 1

The seed selects places in the modules below, and one mutation at each. On a copy of the project in
FOLDER the tests of the module's package run until one fails, beginning with the file that mirrors
the module. FOLDER/outcomes.jsonl stores the outcomes: an interrupted run continues, and surviving
mutants are tried again, as needed after writing a test.
"""

import argparse
import ast
import compileall
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.work_item import MutationSpec, WorkerOutcome

PROJECT = Path(__file__).parents[1]

#: What is mutated, and the tests that have to notice, the file that mirrors a module first.
ML, ASSETS = "tests/fer_ml", "tests/fer_assets"
CLAIMS = [f"{ML}/claims/test_{name}.py" for name in ("sentences", "resolve", "trace", "verify")]
MANIFESTS = [
    f"{ASSETS}/stages/test_{name}.py"
    for name in ("curated_manifest", "classification_manifest", "manifest_validation")
]
PLANTED = f"{ASSETS}/gates/test_planted_faults.py"
ROOMS = {
    "fer_ml/storage/*.py": (
        f"{ML}/storage",
        f"{ML}/claims/test_trace.py",
        f"{ML}/claims/test_flips.py",
    ),
    "fer_ml/claims/*.py": (
        *CLAIMS,
        f"{ML}/report/test_literals.py",
        f"{ML}/report/test_references.py",
    ),
    "fer_ml/validation/manifests.py": (*MANIFESTS, f"{ML}/validation", PLANTED),
    "fer_ml/validation/*.py": (f"{ML}/validation",),
    "fer_ml/runs/*.py": (f"{ML}/runs", PLANTED),
    "fer_assets/stages/*.py": (PLANTED,),
}
#: Pages and pictures are no verdicts, and the tests of a cloud stop servers, which takes long.
BUT = ("mirror", "object_store", "graph", "contact_sheets", "review")
#: Of these rooms only functions that judge, and what they call.
ONLY_JUDGES = ("runs", "stages")

#: What turns a decision round or shifts it. Others (``==`` to ``is``, ``+`` to ``<<``, ``/``, which
#: joins paths here) leave the same program, or one that dies of a type.
OPERATORS = re.compile(
    r"AddNot|Replace(True|False|And|Or|Break|Continue)|ExceptionReplacer|NumberReplacer|Delete_Not"
    r"|RemoveDecorator|ZeroIteration|_(Add_Sub|Sub_Add|Mul_Div|BitAnd_BitOr|BitOr_BitAnd)$"
    r"|_(Eq_NotEq|NotEq_Eq|Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt|Is_IsNot|IsNot_Is)$"
)

Position = tuple[int, int]


def number(*parts: object) -> str:
    """Return a hash that depends only on these parts."""
    return sha256(repr(parts).encode()).hexdigest()


def span(node: ast.AST) -> tuple[Position, Position]:
    """Return start and end of a node, in cosmic-ray's counting."""
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def judging(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the judging functions of a module, and those that they call."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    found: set[str] = set()
    ahead = {name for name in functions if name.startswith("judge")}
    while ahead:
        found |= ahead
        names = {
            n.id for name in ahead for n in ast.walk(functions[name]) if isinstance(n, ast.Name)
        }
        ahead = (names & functions.keys()) - found
    return (functions[name] for name in sorted(found))


def wording(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield nodes that decide nothing: messages, types, asserts, and arguments of decorators."""
    for node in ast.walk(tree):
        match node:
            case ast.Raise() | ast.JoinedStr() | ast.Assert():
                yield node
            case ast.Call(func=ast.Name(id="isinstance"), args=[_, kinds]):
                yield kinds
            case (
                ast.Subscript(value=ast.Name(id="Annotated"))
                | ast.keyword(arg="frozen" | "covariant")
            ):
                yield node
        yield from filter(None, (getattr(node, name, None) for name in ("annotation", "returns")))
        yield from getattr(node, "decorator_list", ())


def places(module: str) -> Iterator[MutationSpec]:
    """Yield every mutation of a module that changes a decision."""
    text = (PROJECT / module).read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    inside = [
        span(n) for n in (judging(tree) if module.split("/")[1] in ONLY_JUDGES else tree.body)
    ]
    outside = [span(node) for node in wording(tree)]
    nodes = list(ast_nodes(get_ast(text)))
    for name in filter(OPERATORS.search, operator_names()):
        operator = get_operator(name)()
        found = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (begin, end) in enumerate(found):
            if name.endswith("_Mul_Div") and lines[begin[0] - 1][begin[1] :][:2] != "* ":
                continue  # It unpacks, or ends what is given by position.
            if any(a <= begin < b for a, b in inside) and not any(
                a <= begin < b for a, b in outside
            ):
                yield MutationSpec(module, name, occurrence, begin, end)


def drawn(seed: int, count: int) -> list[tuple[MutationSpec, tuple[str, ...]]]:
    """Return one mutation at each of ``count`` places, with tests to run; by package."""
    at: dict[tuple[str, Position], list[MutationSpec]] = defaultdict(list)
    room_of = {}
    for pattern, tests in ROOMS.items():
        for path in sorted(PROJECT.glob(pattern)):
            module = path.relative_to(PROJECT).as_posix()
            if path.stem in BUT or room_of.setdefault(module, tests) is not tests:
                continue
            for spec in places(module):
                at[module, spec.start_pos].append(spec)
    chosen = sorted(at, key=lambda place: number(seed, *place))[:count]
    print(f"{len(chosen)} of {len(at)} places, seed {seed}", flush=True)
    order = list(room_of)
    chosen.sort(key=lambda place: (order.index(place[0]), place))
    return [
        (min(at[p], key=lambda m: number(seed, *p, m.operator_name, m.occurrence)), room_of[p[0]])
        for p in chosen
    ]


def command(module: Path | None, room: tuple[str, ...]) -> str:
    """Return a command that runs tests until one fails: the module's own file, then its package.

    Each is a process of its own, which loads only what its tests need.
    """
    options = "-x -q -p no:cacheprovider -p no:hypothesispytest "
    options += " ".join(f"--ignore-glob=*/test_{name}.py" for name in BUT)
    if module is not None:
        own = "tests" / module.with_name(f"test_{module.stem.lstrip('_')}.py")
        if own.exists():
            room = (own.as_posix(), *(tests for tests in room if tests != own.as_posix()))
    python = shlex.quote(sys.executable)
    steps = " && ".join(f"{python} -m pytest {tests} {options}" for tests in room)
    return shlex.join(["sh", "-c", steps])


@cache
def seconds_of(room: tuple[str, ...]) -> float:
    """Return the duration of a package's tests without mutations; they must pass."""
    begun = time.monotonic()
    subprocess.run(shlex.split(command(None, room)), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def main() -> None:
    """Try the selected mutants that no test has caught yet; print the survivors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    copy, kept = given.folder.absolute() / "copy", given.folder.absolute() / "outcomes.jsonl"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns(".*", "outputs", "__pycache__"))
    os.environ |= {
        "PYTHONPATH": str(copy),
        "FER_PROJECT": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    os.chdir(copy)
    compileall.compile_dir(copy, quiet=2)
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    dead = {line["mutant"] for line in map(json.loads, lines) if line["killed"]}
    survived, mutants = [], drawn(given.seed, given.mutants)
    for spec, room in mutants:
        text = spec.module_path.read_text(encoding="utf-8")
        mutant = number(text, spec.operator_name, spec.occurrence)
        if mutant in dead:
            continue
        limit = 30 + 2 * seconds_of(room)
        result = mutate_and_test([spec], command(spec.module_path, room), limit)
        if result.worker_outcome is not WorkerOutcome.NORMAL:
            raise RuntimeError(f"{spec}: {result.output}")
        told = {
            "mutant": mutant,
            "killed": result.is_killed,
            "where": f"{spec.module_path}:{spec.start_pos[0]}",
            "diff": [
                line for line in (result.diff or "").splitlines() if re.match(r"[-+][^-+]", line)
            ],
        }
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
        if not result.is_killed:
            survived.append(told)
        print(
            "died" if result.is_killed else "LIVES",
            told["where"],
            *told["diff"],
            sep="  ",
            flush=True,
        )
    print(f"{len(mutants) - len(survived)} of {len(mutants)} died")


if __name__ == "__main__":
    main()
