"""Errors and warnings of sciml: one base class, so that a caller can catch them all or choose.

A message names the argument, its rule, what came instead (value, shape, index) and what to do. The classes hold the
numbers of their message as attributes, so that a program need not read the text; they travel through pickle, hence
through process pools, with text and attributes.
"""


class SciMLError(Exception):
    """Base of every error that sciml raises on purpose."""

    def __reduce__(self):
        # Said here, since dask replaces the inherited way by one that fails for classes with two built-in bases.
        return type(self), self.args, vars(self)


class InvalidInputError(SciMLError, ValueError):
    """An argument breaks its rule: shape, range, option, a NaN."""


class NotPositiveDefiniteError(InvalidInputError):
    """A matrix that must be positive definite is not.

    Parameters
    ----------
    message : str
        The whole text.
    index : int, tuple of int or None
        Which matrix of a batch; None for a single matrix.
    smallest : float or None
        Its smallest eigenvalue, or the pivot that failed, in the units of the matrix; None when unknown.
    """

    def __init__(self, message="", *, index=None, smallest=None):
        super().__init__(message)
        self.index = index
        self.smallest = smallest


class CertificateError(InvalidInputError):
    """A constant that error bars rest on contradicts what was measured.

    Parameters
    ----------
    message : str
        The whole text.
    constant : str
        Its name, such as "mu".
    given, seen : float or None
        The bound, and the number beyond it.
    sample : int or None
        Which sample.
    """

    def __init__(self, message="", *, constant="", given=None, seen=None, sample=None):
        super().__init__(message)
        self.constant = constant
        self.given = given
        self.seen = seen
        self.sample = sample


class BackendMismatchError(SciMLError, TypeError):
    """Arrays of one call differ in kind, dtype or device in a way that sciml does not repair silently."""


class MemoryBudgetError(SciMLError, MemoryError):
    """A request would take more memory than allowed; raised before anything is allocated.

    Parameters
    ----------
    message : str
        The whole text.
    needed, allowed : int or None
        Bytes.
    """

    def __init__(self, message="", *, needed=None, allowed=None):
        super().__init__(message)
        self.needed = needed
        self.allowed = allowed


class ConvergenceError(SciMLError, RuntimeError):
    """A tolerance was not met and the caller asked for ``on_failure="raise"``."""


class ConvergenceWarning(UserWarning):
    """A tolerance was not met; the answer is the last iterate."""


class ConditioningWarning(UserWarning):
    """The answer is less exact than asked for, since the problem is badly conditioned."""


class FallbackWarning(UserWarning):
    """A slower or plainer way was taken than the one asked for."""


class InvalidTypeError(InvalidInputError, TypeError):
    """An argument is of a kind that cannot be used at all, such as a string for a function."""


class IdentifiabilityError(InvalidInputError):
    """The data cannot determine what is asked for, whatever their noise.

    Parameters
    ----------
    message : str
        The whole text.
    missing : int or None
        How many more measurements (snapshots, for a self-calibration) would be enough, where that is known.
    """

    def __init__(self, message="", *, missing=None):
        super().__init__(message)
        self.missing = missing


class AmbiguityWarning(UserWarning):
    """Answers that differ much fit the data about as well; which parts are undetermined is told."""


class WorkerLostError(SciMLError, RuntimeError):
    """Worker processes died over items again and again: killed, out of memory, or crashed.

    Parameters
    ----------
    message : str
        The whole text.
    items : tuple of int
        Indices of the items without a value.
    """

    def __init__(self, message="", *, items=()):
        super().__init__(message)
        self.items = tuple(items)


class CheckpointError(InvalidInputError):
    """A file of weights is broken, lies about its content, changed while it was read, or cannot be opened.

    Parameters
    ----------
    message : str
        The whole text.
    path : str or None
        The file.

    Examples
    --------
    >>> error = CheckpointError("model.safetensors ends early", path="model.safetensors")
    >>> isinstance(error, ValueError), error.path
    (True, 'model.safetensors')
    """

    def __init__(self, message="", *, path=None):
        super().__init__(message)
        self.path = path


class UnsafeCheckpointError(CheckpointError):
    """A file of weights could be read by running what it names only; nothing of it was run.

    Parameters
    ----------
    message : str
        The whole text.
    path : str or None
        The file.
    offending : str or None
        The name that the file asks for, such as "posix.system".

    Examples
    --------
    >>> UnsafeCheckpointError("model.pt names posix.system", path="model.pt", offending="posix.system").offending
    'posix.system'
    """

    def __init__(self, message="", *, path=None, offending=None):
        super().__init__(message, path=path)
        self.offending = offending


class NonFiniteWeightError(InvalidInputError):
    """A layer of a network holds NaN or infinities.

    Parameters
    ----------
    message : str
        The whole text.
    layer : str or None
        Name of the layer.
    count : int or None
        Number of entries that are no numbers.

    Examples
    --------
    >>> NonFiniteWeightError("fc.weight holds 3 NaN", layer="fc.weight", count=3).count
    3
    """

    def __init__(self, message="", *, layer=None, count=None):
        super().__init__(message)
        self.layer, self.count = layer, count
