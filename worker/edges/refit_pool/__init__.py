"""Fits models beside the path of events: forests in a thread, all else in processes of their own.

Rule 1: forests are grown by a compiled kernel in some milliseconds, and hold no interpreter lock meanwhile: one thread
        is enough for them. What scikit-learn fits holds that lock, and it takes more than a second to load.
Rule 2: what crosses to the child and back is bytes of our own formats; nothing is unpickled that describes a model.
Rule 3: a request determines its model, so a fit that died with its process is simply asked for again.
Rule 4: no child outlives this process, however it ends: each watches its parent and goes when it is gone.
Rule 5: the threads of the engine ask at the same time; who does, and who is told, holds a lock.
Rule 6: the fits of challengers take up to seconds, and never stand in the way of a detector's, for which events may be
        waiting: they have one process of their own, which yields to all others, and begins with the first of them.
"""

from worker.edges.refit_pool.challenger_lane import RefitFailedError
from worker.edges.refit_pool.pool import ProcessRefitPool

__all__ = ["ProcessRefitPool", "RefitFailedError"]
