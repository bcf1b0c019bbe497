"""One thread for each test process: the tests are many small matrices, and threads only wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
