"""How torch's threads wait for each other. Import it before torch: OpenMP reads this once, when it is loaded.

By default a thread that has finished its share spins for milliseconds. When the trainer or anything else has the other
core meanwhile, every operation then waits for the operating system: with two busy neighbours on two cores a step of one
answer took 1,300 ms, and 50 ms with this. The count bridges the gap between two operations and no more.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Compiled loops then run on torch's own threads; a second set of threads costs 60 us a loop, more than most loops take.
os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "omp tbb workqueue")
