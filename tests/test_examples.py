"""The examples in docstrings run, and every public function of these formulas has one."""

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import fer_ml.metrics

MODULES = [
    importlib.import_module(name)
    for name in (
        *(
            f"fer_ml.metrics.{found.name}"
            for found in pkgutil.iter_modules(fer_ml.metrics.__path__)
        ),
        "fer_ml.training.auxiliary",
        "fer_ml.training.losses",
        "fer_ml.distillation.fusion",
        "fer_ml.distillation.sharpness",
    )
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_function_has_an_example_that_runs(module: ModuleType) -> None:
    assert not doctest.testmod(module, raise_on_error=False).failed
    functions = {
        name: held
        for name, held in inspect.getmembers(module, inspect.isfunction)
        if held.__module__ == module.__name__ and not name.startswith("_")
    }
    assert functions
    assert [name for name, held in functions.items() if ">>> " not in (held.__doc__ or "")] == []
