"""Threads of the linear algebra: one for small matrices, where a second costs more than it gives.

Pitfalls  Two threads on matrices of a few hundred rows gain nothing on an idle machine, and cost a factor of twenty
          where another process holds a core: thousands of small products then wait for a thread that does not run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from threadpoolctl import ThreadpoolController

__all__ = ["thread_limit"]


@lru_cache(maxsize=1)
def _controller():
    return ThreadpoolController()


@contextmanager
def thread_limit(n: int) -> Iterator[None]:
    """Let torch and the BLAS of NumPy and SciPy use `n` threads within the block, and as many as before after it.

    Parameters
    ----------
    n : int
        Number of threads, at least 1.

    Examples
    --------
    >>> with thread_limit(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    with _controller().limit(limits=n, user_api="blas"):
        torch.set_num_threads(n)
        try:
            yield
        finally:
            torch.set_num_threads(before)
