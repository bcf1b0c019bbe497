"""One thread for each test process: the tests are many small matrices, and threads that wait for each other are slow."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
