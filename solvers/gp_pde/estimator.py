"""The scikit-learn estimator: it puts observations into a problem, calls `solve_pde` and keeps its answer."""

from __future__ import annotations

import dataclasses

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.random import generator
from sciml.solvers.gp_pde.problem import PDE
from sciml.solvers.gp_pde.solve import solve_pde

__all__ = ["GPPDERegressor"]


class GPPDERegressor(RegressorMixin, BaseEstimator):
    """Regression with a differential equation: the fit obeys it, and its unknown parameters are learned.

    Parameters
    ----------
    pde : PDE
        The equation, with `parameters` to be learned or without; its observations, if any, are replaced by those of
        `fit`.
    sigma : float or None
        Standard deviation of the targets, in units of y; None (the default) estimates it.
    noise : None, "learn", float or dict
        Noise of the source and of the boundary values, as in `solve_pde`; None by default: they are exact.
    tol : float
        As in `solve_pde`; 1e-8 by default.
    max_features : int
        As in `solve_pde`; 4000 by default.
    random_state : None, int, numpy.random.Generator or numpy.random.RandomState
        Places collocation points; 0 by default, so that the same call gives the same answer.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the status is not "converged"; None (the default) asks the configuration.

    Attributes
    ----------
    solution_ : PDESolution
        What `solve_pde` returned.
    parameters_ : dict
        Name to the estimate: a float, or a callable of X for a function.
    parameters_std_ : dict
        Name to the standard deviation, likewise.
    n_iter_ : int
        Steps of the solver, at least 1.
    n_features_in_ : int
        Columns of X.

    Notes
    -----
    X holds points of the problem's domain, so that generic checks with arbitrary X do not apply; parameters, cloning
    and the errors for NaN, wrong shapes and missing fits are those of scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.solvers.gp_pde import PDE, Box
    >>> from sciml.solvers.gp_pde.estimator import GPPDERegressor
    >>> x = np.linspace(0, 3, 25)[:, None]
    >>> pde = PDE(Box([(0, 3)]), {2: 1.0, 0: "k"}, 0.0, parameters={"k": (1.0, 30.0)})
    >>> model = GPPDERegressor(pde, sigma=1e-3).fit(x, np.sin(3 * x[:, 0]))
    >>> round(model.parameters_["k"], 2)
    9.0
    >>> mean, std = model.predict(x, return_std=True)
    >>> bool(model.score(x, np.sin(3 * x[:, 0])) > 0.999), std.shape
    (True, (25,))
    """

    def __init__(
        self,
        pde=None,
        *,
        sigma=None,
        noise=None,
        tol=1e-8,
        max_features=4000,
        random_state=0,
        on_failure=None,
    ):
        self.pde = pde
        self.sigma = sigma
        self.noise = noise
        self.tol = tol
        self.max_features = max_features
        self.random_state = random_state
        self.on_failure = on_failure

    def fit(self, X, y):
        """Learn u, and the parameters of the problem, from observations.

        Parameters
        ----------
        X : array, shape (n, d)
            Points in the domain.
        y : array, shape (n,)
            Observed values of u.

        Returns
        -------
        GPPDERegressor
            Itself.

        Raises
        ------
        InvalidTypeError
            When `pde` is no PDE.
        InvalidInputError
            When X has another number of columns than the domain has dimensions.
        """
        if not isinstance(self.pde, PDE):
            raise InvalidTypeError(
                f"pde must be a PDE; got {type(self.pde).__name__}. Write GPPDERegressor(PDE(domain, operator, ...))."
            )
        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        if X.shape[1] != self.pde.n_dims:
            raise InvalidInputError(
                f"X must have {self.pde.n_dims} columns, one for each dimension of the domain; got shape {X.shape}."
            )
        pde = dataclasses.replace(self.pde, observations=(X, np.asarray(y, float), self.sigma))
        state = self.random_state
        if isinstance(state, np.random.RandomState):
            state = generator(int(state.randint(2**31 - 1)))
        self.solution_ = solve_pde(
            pde,
            noise=self.noise,
            tol=self.tol,
            max_features=self.max_features,
            random_state=state,
            on_failure=self.on_failure,
        )
        self.parameters_ = dict(self.solution_.parameters)
        self.parameters_std_ = dict(self.solution_.parameters_std)
        self.n_iter_ = max(1, self.solution_.n_iter)
        return self

    def predict(self, X, return_std=False):
        """Evaluate u.

        Parameters
        ----------
        X : array, shape (m, d)
            Points in the domain.
        return_std : bool
            Also return the standard deviation of u, without the noise of a target; False by default.

        Returns
        -------
        ndarray, shape (m,), or two of them
            Mean, and standard deviation, in units of y.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        mean = self.solution_(X)
        return (mean, self.solution_.std(X)) if return_std else mean
