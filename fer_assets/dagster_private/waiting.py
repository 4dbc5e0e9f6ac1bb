"""How a run that makes its steps in its own process waits for a place in a pool, or for a retry.

Importing this changes Dagster's own wait. There the time to the next look at a pool is never above
0 (``min([0, ...])``), so a waiting run keeps a processor busy; and it hears no stop.
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
