"""``python -m fer_assets.gate_tables [FILE]``: every gate of every built-in profile, as Markdown.

With a FILE the tables are written between its marks, without one they are printed.
"""

import sys
from pathlib import Path

from fer_assets.stage import Stage, in_order
from fer_assets.stages import stages_of_all_profiles
from fer_ml.base.reading import read_text
from fer_ml.storage.gates import Gate
from fer_ml.validation.gates import MANIFEST_GATES

HEAD = "| gate | what it asks | blocks | when it fails |\n| --- | --- | --- | --- |"


def as_markdown() -> str:
    """One table for each group of assets that are asked the same."""
    holders: dict[Gate, list[str]] = {}
    for asset, gates in _gates_by_name().items():
        for gate in gates:
            if asset != "hq_train_manifest" or gate not in MANIFEST_GATES:
                holders.setdefault(gate, []).append(f"`{asset}`")
    tables: dict[str, list[str]] = {}
    for gate, assets in holders.items():
        blocks = "yes" if gate.blocking else "warns"
        if gate.blocks_with:
            blocks += f"; yes where `{gate.blocks_with}` is set"
        row = (f"`{gate.rule}`", gate.asks, blocks, gate.fix)
        tables.setdefault(", ".join(assets), []).append(f"| {' | '.join(row)} |")
    return "\n\n".join(
        "\n".join((f"Of {assets}:", "", HEAD, *rows)) for assets, rows in tables.items()
    )


def _gates_by_name() -> dict[str, tuple[Gate, ...]]:
    stages = in_order(stages_of_all_profiles().values())
    return {_family(stage): stage.gates for stage in stages if stage.gates}


def _family(stage: Stage) -> str:
    """The name of all assets that one declaration makes."""
    for start, name in (("manifest/", "source"), ("comparison/", "name")):
        if stage.asset.startswith(start):
            return f"{start}<{name}>"
    return "*_manifest" if stage.gates == MANIFEST_GATES else stage.asset


if __name__ == "__main__":
    for name in sys.argv[1:]:
        before, _, rest = read_text(name).partition("<!-- gates -->\n")
        after = rest.partition("<!-- /gates -->")[2]
        text = f"{before}<!-- gates -->\n{as_markdown()}\n<!-- /gates -->{after}"
        Path(name).write_text(text, encoding="utf-8")
    if not sys.argv[1:]:
        print(as_markdown())
