"""Progress bars: silent unless asked for by ``progress=True`` or the configuration; tqdm is imported only then."""

from sciml._config import resolve


class _Silent:
    """Stand in for a bar that nobody asked for: what a method may call on a bar, doing nothing."""

    def __init__(self, iterable):
        self._iterable = iterable

    def __iter__(self):
        return iter(self._iterable)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def update(self, n=1):
        """Do nothing."""

    def set_postfix(self, **values):
        """Do nothing."""

    def close(self):
        """Do nothing."""


def bar(what, *, desc, progress=None):
    """Return a progress bar around an iterable, or one that is moved by hand.

    Parameters
    ----------
    what : iterable, int or None
        What to iterate over; or the number of steps of a bar moved by ``update``; or None when that is unknown.
    desc : str
        A word or two in front of the bar.
    progress : bool or None
        Show it or not; None (the default) asks the configuration key ``progress``, which is False by default.

    Returns
    -------
    object
        A tqdm bar or a silent stand-in: iterable, a context manager, with ``update``, ``set_postfix``, ``close``.

    Examples
    --------
    >>> [n for n in bar(range(3), desc="blocks")]
    [0, 1, 2]
    """
    by_hand = what is None or isinstance(what, int)
    if not resolve("progress", progress):
        return _Silent(() if by_hand else what)
    from tqdm.auto import tqdm

    return tqdm(total=what, desc=desc) if by_hand else tqdm(what, desc=desc)
