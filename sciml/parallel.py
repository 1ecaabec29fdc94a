"""Independent tasks side by side: a map that survives killed workers, remembers what is done, and sums in order.

The workers are the user's choice, made through joblib: none by default (one item after the other in this process), else
``joblib.parallel_config(backend="loky", n_jobs=4)`` for processes, ``"threading"`` for threads, ``"dask"`` for a
cluster whose ``dask.distributed.Client`` is open.

Cost      loky: about 1 s to start a worker that imports torch, 1 ms an item; short items travel in batches.
Pitfalls  what an item changes in place is changed in its worker only; a program that starts processes needs the guard
          ``if __name__ == "__main__"`` on systems without fork.
"""

import contextlib
import operator
import os
import sys
import threading
import traceback
import warnings
from collections import Counter
from concurrent.futures import BrokenExecutor

from sciml._checkpoint import MISSING, Checkpoint
from sciml._config import config_context, get_config
from sciml._trace import isolated_trace, record, tracing
from sciml.exceptions import InvalidInputError, WorkerLostError
from sciml.iterate import caller_level
from sciml.progress import bar
from sciml.random import generator, spawn
from sciml.validation import check_number


def map(
    fn,
    items,
    *,
    n_jobs=None,
    random_state=None,
    checkpoint=None,
    version=None,
    retries=2,
    return_exceptions=False,
    threads=None,
    progress=None,
):
    """Return ``[fn(item) for item in items]``, computed by the workers that joblib is configured for.

    Parameters
    ----------
    fn : callable
        Takes an item; with `random_state` also a keyword ``random_state``. Lambdas and closures may travel, too.
    items : iterable
        The arguments; all are taken before the first is computed.
    n_jobs : int or None
        Workers; -1 takes all cores. None (the default) takes what ``joblib.parallel_config`` says, which is 1 where it
        was not called: one item after the other in this process.
    random_state : None, int or numpy.random.Generator
        Where given, ``fn(item, random_state=child)`` gets a generator of its own, spawned for the item's place: the
        same for any number of workers, in any order, after any retry. None (the default) passes nothing.
    checkpoint : str, path-like or None
        Folder in which every finished item is stored, and found by the next call: after Ctrl-C, a kill or a power
        failure only the missing items are computed. An item is known by the content of `fn` (its code, defaults and
        what it closes over), its own content, its random stream, `version`, the version of sciml and the configured
        device, dtype and engine. None (the default) stores nothing.
    version : str, int or None
        Part of what an item is known by: change it when something that `fn` calls, or a global variable that it reads,
        has changed.
    retries : int
        How often an item is tried again whose worker died; the last try is made alone, so that an item that kills its
        worker is told from its neighbours. 2 by default: one death may be another's fault. Errors that `fn` raises are
        not retried.
    return_exceptions : bool
        Put the exceptions that items raised in the place of their values; by default the first one received is raised
        with the item's index noted on it.
    threads : int or None
        Threads of torch and the BLAS for each item. None (the default) shares the cores (``OMP_NUM_THREADS`` where
        that is set) among the workers, and changes nothing where there is one.
    progress : bool or None
        Show a bar; None (the default) asks the configuration.

    Returns
    -------
    list
        One value an item, in their order. Tensors, also inside tuples, lists and dicts, come back detached and on the
        CPU whatever the workers are; the rest comes as `fn` returned it.

    Raises
    ------
    InvalidInputError
        If an argument breaks its rule, the folder cannot be written, or a value cannot be stored.
    WorkerLostError
        If workers died over items `retries` + 1 times; the other items have been finished and stored before. Its
        ``items`` are the indices.

    Notes
    -----
    A worker has the configuration of the caller, but for ``progress`` (off) and ``memory``, of which each takes its
    share. Its dispatch decisions appear in the traces that are open here, and warnings of loky's processes are given
    here with the item's index; those of a cluster stand in the workers' logs.

    Large arrays that are sent to processes on this machine are mapped into their memory, not copied; in-place changes
    stay with the worker.

    Items shorter than about 0.2 s travel in batches of up to 2 s; with a worker dies the batch that it was at.

    A dask scheduler has tries of its own before it reports a death (``distributed.scheduler.allowed-failures``).

    Examples
    --------
    >>> map(abs, [-1, 2, -3])
    [1, 2, 3]
    >>> def draw(mean, random_state):
    ...     return round(random_state.normal(mean), 3)
    >>> map(draw, [0, 100], random_state=0)
    [1.444, 100.805]
    """
    items = _listed(items)
    values = [None] * len(items)
    job = _Job(fn, items, n_jobs, random_state, checkpoint, version, retries, return_exceptions, threads)
    job.run(values.__setitem__, progress)
    return values


def map_reduce(
    fn,
    items,
    *,
    combine=None,
    n_jobs=None,
    random_state=None,
    checkpoint=None,
    version=None,
    retries=2,
    threads=1,
    progress=None,
):
    """Return the sum of ``fn(item)`` over the items, added in their order: bit for bit the same for any workers.

    Parameters
    ----------
    fn : callable
        Takes an item; with `random_state` also a keyword ``random_state``.
    items : iterable
        The arguments, at least one.
    combine : callable or None
        ``combine(total, value)`` returns the next total, starting from the value of the first item. None (the default)
        adds numbers, arrays and tensors, and tuples, lists and dicts of them entry by entry.
    n_jobs : int or None
        As in :func:`map`.
    random_state : None, int or numpy.random.Generator
        As in :func:`map`.
    checkpoint : str, path-like or None
        As in :func:`map`.
    version : str, int or None
        As in :func:`map`.
    retries : int
        As in :func:`map`.
    threads : int or None
        Threads of torch and the BLAS for each item; 1 by default, since sums inside `fn` round otherwise with another
        number of threads. None as in :func:`map`.
    progress : bool or None
        As in :func:`map`.

    Returns
    -------
    object
        The total. Only values that wait for an earlier item are held in memory.

    Raises
    ------
    InvalidInputError
        If there is no item, and as in :func:`map`.
    WorkerLostError
        As in :func:`map`.

    Examples
    --------
    >>> map_reduce(lambda n: {"square": n**2, "one": 1}, range(4))
    {'square': 14, 'one': 4}
    """
    items = _listed(items)
    if not items:
        raise InvalidInputError("items must not be empty: the sum of nothing has no shape. Pass at least one item.")
    combine = _add if combine is None else combine
    waiting, done, total = {}, 0, None

    def take(index, value):
        nonlocal done, total
        waiting[index] = value
        while done in waiting:
            value = waiting.pop(done)
            total = combine(total, value) if done else value
            done += 1

    job = _Job(fn, items, n_jobs, random_state, checkpoint, version, retries, False, threads)
    job.run(take, progress)
    return total


def _listed(items):
    try:
        return list(items)
    except TypeError:
        raise InvalidInputError(f"items must be iterable; got {type(items).__name__}. Pass a list.") from None


def _add(total, value):
    """Return the sum of two values; truth values count as 0 and 1, for which NumPy and torch would take "or"."""
    if isinstance(total, (dict, tuple, list)):
        _check_alike(total, value)
    if isinstance(total, dict):
        return {key: _add(total[key], value[key]) for key in total}
    if isinstance(total, (tuple, list)):
        return _like(total, [_add(a, b) for a, b in zip(total, value, strict=True)])
    return operator.add(_counted(total), _counted(value))


def _check_alike(total, value):
    if not isinstance(value, dict if isinstance(total, dict) else (tuple, list)):
        raise InvalidInputError(
            f"fn must return values that can be added to one another; got {type(total).__name__} and "
            f"{type(value).__name__}. Return the same kind for every item, or pass combine."
        )
    if isinstance(total, dict) and total.keys() != value.keys():
        raise InvalidInputError(f"fn must return dicts of equal keys; got {list(total)} and {list(value)}.")
    if len(total) != len(value):
        raise InvalidInputError(
            f"fn must return {type(total).__name__}s of equal length; got {len(total)} and {len(value)}. "
            "To chain lists pass combine=operator.add."
        )


def _counted(value):
    """Return truth values and short integers as long ones, which hold their sum."""
    word = str(getattr(value, "dtype", "")).removeprefix("torch.")
    if word != "bool" and (not word.startswith(("int", "uint")) or word.endswith("64")):
        return value
    return value.long() if hasattr(value, "long") else value.astype("int64")


def _like(container, parts):
    kind = type(container)
    return kind(*parts) if hasattr(container, "_fields") else kind(parts)  # a namedtuple takes its parts one by one


# ---------------------------------------------------------------- one call of map, in the process that called


class _Job:
    """What one call of map has to do, and what came of it."""

    def __init__(self, fn, items, n_jobs, random_state, checkpoint, version, retries, return_exceptions, threads):
        if not callable(fn):
            raise InvalidInputError(f"fn must be callable; got {type(fn).__name__}. Pass the function itself.")
        self.retries = check_number("retries", retries, low=0, integer=True)
        if threads is not None:
            threads = check_number("threads", threads, low=1, integer=True)
        self.n_jobs = n_jobs
        workers = _workers(n_jobs)
        self.items, self.return_exceptions = items, return_exceptions
        self.streams = [None] * len(items)
        if random_state is not None:
            self.streams = spawn(generator(random_state), len(items))
        self.store = None if checkpoint is None else Checkpoint(checkpoint, fn, version)
        self.keys = [None if self.store is None else self.store.key(*pair) for pair in self._pairs()]
        self.task = _Task(fn, _share(get_config(), workers), threads or _threads(workers))
        self.name = getattr(fn, "__name__", type(fn).__name__)
        self.unfinished: set = set()

    def _pairs(self):
        return zip(self.items, self.streams, strict=True)

    def run(self, take, progress):
        """Call ``take(index, value)`` for every item, as they finish."""
        self.take = take
        with bar(len(self.items), desc=self.name, progress=progress) as self.steps:
            self.unfinished = set(range(len(self.items)))
            if self.store is not None:
                for index, key in enumerate(self.keys):
                    if (value := self.store.get(key)) is not MISSING:
                        self._finish(index, value)
            self._run_missing()

    def _run_missing(self):
        """Submit what is missing again and again while workers die; blame an item for the deaths that it was near."""
        deaths, lost, fruitless, cause = Counter(), [], 0, None
        while missing := sorted(self.unfinished.difference(lost), key=lambda i: (deaths[i], i)):
            together = [i for i in missing if deaths[i] < max(1, self.retries)]
            alone = not together
            before = len(self.unfinished)
            suspects, death = self._submit(together or missing[:1])
            if death is None:
                continue
            cause = death
            fruitless = 0 if alone or len(self.unfinished) < before else fruitless + 1
            deaths.update(suspects)
            lost += [i for i in suspects if deaths[i] > self.retries]
            # Workers that die before they finish anything die of themselves, not of the items.
            if fruitless > self.retries:
                lost = list(self.unfinished)
        if lost:
            self._lose(sorted(lost), cause)

    def _submit(self, indices):
        """Run items; return those that a worker may have died over, and the error of that (None without a death)."""
        parallel, started, dead = _parallel(self.n_jobs), [], {}

        def calls():
            for i in indices:
                started.append(i)
                yield self.task.call(i, self.items[i], self.streams[i])

        outcomes, death, stopped = None, None, True
        try:
            with _dask_adapted(parallel):
                outcomes = parallel(calls())
                for outcome in outcomes:
                    self._receive(outcome, dead)
            stopped = False
        except Exception as error:
            if not _is_death(error):
                raise
            death, stopped = error, False
        finally:
            # What had come in when the rest was stopped (a death, an error, Ctrl-C) is finished work.
            for outcome in parallel.end(outcomes):
                self._receive(outcome, dead, quietly=stopped)
        left = [i for i in indices if i in self.unfinished]
        if death is None and left:
            death = next(iter(dead.values()), RuntimeError("the workers ended without an answer"))
            return list(dead) or left, death
        return [i for i in started if i in self.unfinished] or left, death

    def _receive(self, outcome, dead, quietly=False):
        index, value, error, log, warned = outcome
        if index not in self.unfinished:
            return
        if error is not None and _is_death(error):
            dead[index] = error
            return
        if error is None and self.store is not None:
            self.store.put(self.keys[index], value, index)
        if quietly:
            return  # stored, which is all that can be done for it now
        for entry in log:
            record(**entry)
        for category, text in warned:
            warnings.warn(f"{text} [item {index} of sciml.parallel]", category, stacklevel=caller_level())
        if error is not None and not self.return_exceptions:
            raise error
        self._finish(index, value if error is None else error)

    def _finish(self, index, value):
        self.unfinished.discard(index)
        self.take(index, value)
        self.steps.update()

    def _lose(self, lost, cause):
        some = ", ".join(str(i) for i in lost[:10]) + (", ..." if len(lost) > 10 else "")
        message = (
            f"{self.name}: no value for {len(lost)} of {len(self.items)} items ({some}), since their workers died "
            f"{self.retries + 1} times ({type(cause).__name__}). A worker is killed when it runs out of memory or "
            "crashes: take fewer n_jobs, give each less memory, or run one of these items alone."
        )
        if not self.return_exceptions:
            raise WorkerLostError(message, items=lost) from cause
        for index in lost:
            self._finish(index, WorkerLostError(message, items=[index]))


def _workers(n_jobs):
    import joblib

    if n_jobs is not None:
        n_jobs = check_number("n_jobs", n_jobs, integer=True)
        if n_jobs == 0:
            raise InvalidInputError("n_jobs must be a number of workers, or -1 for all cores; got 0. Pass 1 for none.")
    return joblib.effective_n_jobs(n_jobs)


def _cores():
    import joblib

    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) else joblib.cpu_count()


def _threads(workers):
    """Return the threads of one of several workers; None, which changes nothing, for a single one."""
    return max(1, _cores() // workers) if workers > 1 else None


def _share(settings, workers):
    """Return the settings of one of several workers."""
    memory = settings["memory"]
    part = max(1, memory // workers) if isinstance(memory, int) else memory / workers
    return {**settings, "memory": part, "progress": False}


def _parallel(n_jobs):
    """Return joblib's Parallel in the form in which it gives values up as they come and drops none of them."""
    from joblib import Parallel

    class Rescuing(Parallel):
        # Parallel forgets finished work when it is stopped: that is fetched from its list first. Should a later
        # version keep no such list, the work is merely done again.
        _kept = ()

        def _abort(self):
            self._kept = (*self._kept, *getattr(self, "_jobs", ()))
            super()._abort()

        def _warn_exit_early(self):
            """Stay silent: what was not used is returned by `end`."""

        def end(self, outcomes):
            """Stop the rest, and return the outcomes that had come in without being looked at."""
            if outcomes is not None and getattr(self, "_running", True):
                outcomes.close()
            done = [job for job in self._kept if getattr(job, "status", None) == "Done"]
            # Where nothing runs any more, the outcomes still hold what came in last; else they are empty now.
            return [*(outcome for job in done for outcome in job.get_result(None)), *(outcomes or ())]

    # Copy on write: an item that changes its array in place sees the change, as it does without workers.
    return Rescuing(n_jobs=n_jobs, return_as="generator_unordered", mmap_mode="c")


@contextlib.contextmanager
def _dask_adapted(parallel):
    """Have dask tell which batches died, and compute on the cluster even where one worker is all that is left of it.

    joblib's dask backend keeps the death of a batch to itself, and waits for it for ever; and with one worker joblib
    computes in this process, which an item that kills its worker must not come near.
    """
    backend = parallel._backend
    if not hasattr(backend, "waiting_futures"):  # not dask
        yield
        return
    submit, configure = backend.submit, backend.configure

    def telling(batch, callback=None):
        def done(future):
            if future.exception() is not None:
                callback([(arguments[0], None, future.exception(), [], []) for _, arguments, _ in batch.items])

        future = submit(batch, callback)
        future.add_done_callback(done)
        return future

    backend.submit = telling
    backend.configure = lambda *args, **options: max(2, configure(*args, **options))
    try:
        yield
    finally:
        del backend.submit, backend.configure


def _is_death(error):
    """Return whether an error says that a worker process died, rather than that an item raised."""
    distributed = sys.modules.get("distributed")
    kinds = (BrokenExecutor,) if distributed is None else (BrokenExecutor, distributed.KilledWorker)
    return isinstance(error, kinds)


# ---------------------------------------------------------------- one item, in a worker


class _Task:
    """A function with the surroundings that its caller had; travels to the workers."""

    def __init__(self, fn, settings, threads):
        self.fn, self.settings, self.threads = fn, settings, threads
        self.traced, self.home = tracing(), os.getpid()

    def call(self, index, item, stream):
        """Return the call in the form that joblib takes."""
        return self, (index, item, stream), {}

    def __call__(self, index, item, stream):
        """Return (index, value, error, dispatch decisions, warnings) of one item."""
        random = {} if stream is None else {"random_state": stream}
        value = failure = None
        with (
            isolated_trace(self.traced) as log,
            config_context(**self.settings),
            _thread_limit(self.threads),
            self._warnings() as warned,
        ):
            try:
                value = _to_cpu(self.fn(item, **random))
            except Exception as error:
                failure = self._portable(error, index)
        return index, value, failure, list(log), [(w.category, str(w.message)) for w in warned]

    def _warnings(self):
        """Return what collects the warnings of a worker process, for its caller's filters to judge.

        Only in a process's main thread (loky): other threads would fall into the same net, and dask's are others.
        """
        if os.getpid() == self.home or threading.current_thread() is not threading.main_thread():
            return contextlib.nullcontext(())
        return warnings.catch_warnings(record=True, action="always")

    def _portable(self, error, index):
        """Return an error that says which item it is of, and that can travel."""
        error.add_note(f"Raised by item {index} of sciml.parallel.")
        if os.getpid() == self.home:
            return error
        from joblib.externals.loky.cloudpickle_wrapper import dumps, loads

        text = "".join(traceback.format_exception(error))
        try:
            error.add_note(f"In the worker:\n{text}")
            loads(dumps(error))
        except Exception:  # whatever a class of the user does when it is copied
            error = RuntimeError(f"{type(error).__name__}: {error}")
            error.add_note(f"Raised by item {index} of sciml.parallel; in the worker:\n{text}")
        return error


def _to_cpu(value):
    if isinstance(value, dict) and type(value) is dict:
        return {key: _to_cpu(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return _like(value, [_to_cpu(part) for part in value])
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return value


_lock = threading.Lock()
_limits: list = []  # one entry for each thread inside a limit
_before: dict = {}


@contextlib.contextmanager
def _thread_limit(n):
    """Let torch and the BLAS use n threads; the number before the first of several at a time comes back at the end."""
    # A worker that has not imported torch yet has joblib's or dask's OMP_NUM_THREADS.
    torch = sys.modules.get("torch")
    if n is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    with _lock:
        if not _limits:
            _before["torch"] = None if torch is None else torch.get_num_threads()
            _before["blas"] = threadpool_limits(limits=n, user_api="blas")
        _limits.append(n)
    if torch is not None:
        torch.set_num_threads(n)  # of this thread, and of those that it starts
    try:
        yield
    finally:
        with _lock:
            _limits.pop()
            if torch is not None and _before["torch"] is not None:
                torch.set_num_threads(_before["torch"])
            if not _limits:
                _before.pop("blas").restore_original_limits()
