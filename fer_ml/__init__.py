"""The science and the files of the platform, without Dagster."""

import os

# Threads of an operation that wait for each other by spinning take the processor from whoever has
# work, themselves included: beside another program a step takes several times as long. The OpenMP
# runtime reads this when torch loads it; what the user sets stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
