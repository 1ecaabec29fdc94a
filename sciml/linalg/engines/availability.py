"""Which engines can run here, and why the others cannot.

An engine is found unavailable when it is first used: a compiler may be missing, or a cache folder unwritable. It then
stays so for the process; a call that left the choice open warns once and takes the next engine.
"""

import warnings

from sciml.exceptions import FallbackWarning, SciMLError
from sciml.iterate import caller_level

ENGINES = ("dense", "eager", "compiled", "keops")
_against: dict = {}
_warned: set = set()


class EngineUnavailable(SciMLError, RuntimeError):
    """An engine that was asked for by name cannot run here.

    Parameters
    ----------
    engine : str
        Its name.
    reason : str
        Why.
    """

    def __init__(self, engine, reason):
        super().__init__(
            f"engine={engine!r} cannot run here: {reason}. Pass engine='auto', or see sciml.show_versions()."
        )
        self.engine, self.reason = engine, reason

    def __reduce__(self):
        return type(self), (self.engine, self.reason)


def reason_against(engine):
    """Return why an engine cannot run, or an empty text."""
    return _against.get(engine, "")


def disable(engine, error):
    """Remember for this process why an engine cannot run, and return the reason in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    _against[engine] = f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
    return _against[engine]


def warn_once(engine, taken):
    """Warn, once in a process for each engine, that another one was taken."""
    if engine in _warned:
        return
    _warned.add(engine)
    warnings.warn(
        f"the engine {engine!r} cannot run here ({reason_against(engine)}); {taken!r} is taken instead, with the same "
        "answers, more slowly. Choose an engine by engine= or sciml.set_config(engine=...) to silence this.",
        FallbackWarning,
        stacklevel=caller_level(),
    )


def availability():
    """Return what is known about each engine, without running any.

    Returns
    -------
    dict
        Engine to "available", or the reason why it cannot run. A compiler that is missing shows only when an engine
        is first used, or when none is found on the path.

    Examples
    --------
    >>> availability()["eager"]
    'available'
    """
    import importlib.util
    import os
    import shutil

    found = {}
    for engine in ENGINES:
        against = reason_against(engine)
        if not against and engine in ("compiled", "keops"):
            compilers = [os.environ.get("CXX"), "g++", "c++", "clang++"]
            if not any(name and shutil.which(name.split()[0]) for name in compilers):
                against = "no C++ compiler on the path"
        if not against and engine == "keops" and importlib.util.find_spec("pykeops") is None:
            against = "pykeops is not installed"
        found[engine] = against or "available"
    return found
