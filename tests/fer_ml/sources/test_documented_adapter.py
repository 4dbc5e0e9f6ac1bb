"""The adapter that docs/data.md shows is a whole one: it runs as it stands there."""

import re
import types
from pathlib import Path

from fer_ml.sources import Adapter

DOCS = Path(__file__).parents[3] / "docs" / "data.md"


def test_the_documented_adapter_reads_its_layout(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    module = types.ModuleType("line_list")
    exec(compile(code, str(DOCS), "exec"), module.__dict__)
    adapter = module.ADAPTER
    assert isinstance(adapter, Adapter)
    (tmp_path / "list.txt").write_text("train happy a.png\ndev hapy b.png\nx sad c.png\n")
    rows = adapter.listing(tmp_path).select("where", "file", "label", "split", "fault").rows()
    assert rows == [
        ("list.txt:1", "a.png", "Happy", "train", None),
        ("list.txt:2", "b.png", None, "val", "bad label: 'hapy'"),
        ("list.txt:3", "c.png", None, "x", "unknown split: 'x'"),
    ]
