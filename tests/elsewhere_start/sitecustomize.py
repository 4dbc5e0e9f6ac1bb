"""Python runs this when it starts with this folder on its path: see ``tests/elsewhere.py``."""

import os

if os.environ.get("FER_ELSEWHERE"):
    import tests.elsewhere

    tests.elsewhere.enter()
