"""The agents: one thin file a module says which topics, which processor and which settings make a worker."""

import os

# Before numpy is loaded: on several threads its linear algebra of small matrices takes ten times as long, and workers, of which
# there is one for each core, wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
