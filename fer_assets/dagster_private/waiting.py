"""How a run with all steps in its own process waits for a pool slot or a retry.

Importing this module replaces Dagster's wait. Dagster's own never sleeps while it waits for a pool
slot (``min([0, ...])``), so it keeps a processor busy, and it ignores requests to stop.
"""

import time

from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.plan.active import ActiveExecution
from dagster._utils.interrupts import raise_interrupts_as

#: Seconds between two looks at what may be ready.
LOOK_S = 0.25


def _sleep(self: ActiveExecution) -> None:
    with raise_interrupts_as(DagsterExecutionInterruptedError):
        time.sleep(LOOK_S)


ActiveExecution.sleep_til_ready = _sleep  # type: ignore[method-assign]
