"""Estimators that learn a regulariser from pairs of noisy and clean images, and apply it to others.

They follow scikit-learn (parameters in the constructor, `fit`, `transform`, `score`, `clone`), but their samples are
images: arrays (n, H, W), or (H, W) for a single one.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.auto import Auto
from sciml.inverse.bilevel.imaging import field_of_experts, field_of_experts_start, psnr, total_variation
from sciml.inverse.bilevel.implicit import ImplicitArgmin
from sciml.inverse.bilevel.measurements import as_measurement
from sciml.inverse.bilevel.solve import learn_hyperparameters
from sciml.inverse.bilevel.upper import SquaredError
from sciml.linalg.arrays import enter
from sciml.random import generator

__all__ = ["FieldsOfExperts", "LearnedTV"]

# How far logarithms may go from where they start. Where narrower potentials are ever better, as for piecewise constant
# images, each step towards them costs more than the one before and gains less: a width stops at a 55th of its start.
_REACH, _NARROW = 12.0, 4.0


class _ImageEstimator(TransformerMixin, BaseEstimator):
    """What the estimators share; subclasses give `_problem`, `_start` and `_read`."""

    # Images are no metadata to be routed.
    __metadata_request__fit = {"clean": UNUSED}
    __metadata_request__score = {"clean": UNUSED}

    def fit(self, noisy, clean):
        """Learn the hyperparameters.

        Parameters
        ----------
        noisy : array, shape (n, H, W) or (H, W), or data of another shape where `operator` makes it
            Data: NumPy, torch or xarray.
        clean : array, shape (n, H, W) or (H, W)
            The images that the data belong to.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If shapes do not fit, a number is not finite, or an argument of the constructor breaks its rule.

        Warns
        -----
        ConvergenceWarning
            If the search ended before its tolerance was met.
        """
        (noisy, clean), _ = enter(noisy, clean, names=("noisy", "clean"), dtype=self.dtype, device=self.device)
        if clean.ndim == 2:
            noisy, clean = noisy[None], clean[None]
        if clean.ndim != 3 or clean.numel() == 0:
            raise InvalidInputError(
                f"clean must be images, shape (n, H, W) or (H, W); got shape {tuple(clean.shape)}. Turn colour images "
                "grey, or pass their channels as images."
            )
        if len(noisy) != len(clean) or self.operator is None and noisy.shape != clean.shape:
            raise InvalidInputError(
                f"noisy must belong to clean, image by image; got shape {tuple(noisy.shape)} for clean of shape "
                f"{tuple(clean.shape)}."
            )
        scale = self._noise_level(noisy, clean)
        start, low, high = self._start(scale, generator(self.random_state))
        theta0 = start if self.theta0 is None else torch.as_tensor(np.asarray(self.theta0, dtype=float))
        if theta0.shape != start.shape:
            raise InvalidInputError(f"theta0 must be of shape {tuple(start.shape)}; got {tuple(theta0.shape)}.")
        self.shape_ = tuple(clean.shape[1:])
        self.bilevel_result_ = learn_hyperparameters(
            self._problem(noisy, self.shape_),
            SquaredError(clean),
            theta0.numpy(),
            bounds=(low, high) if self.bounds is None else self.bounds,
            method=Auto(direction="lbfgs") if self.method is None else self.method,
            tol=self.tol,
            max_iter=self.max_iter,
            max_units=self.max_units,
            max_seconds=self.max_seconds,
            lower_solver=self.lower_solver,
            batch_size=self.batch_size,
            n_jobs=self.n_jobs,
            device=clean.device,
            random_state=self.random_state,
            verify=self.verify,
            callback=self.callback,
            on_failure=self.on_failure,
            progress=self.progress,
        )
        self.theta_ = np.asarray(self.bilevel_result_.theta)
        self.n_iter_ = self.bilevel_result_.n_iter
        self.noise_level_ = scale
        self.peak_ = float(clean.max() - clean.min()) or 1.0
        self._read(self.theta_)
        return self

    def transform(self, noisy):
        """Restore images with the learned regulariser.

        Parameters
        ----------
        noisy : array, shape (n, H, W) or (H, W), or data as in `fit`
            Data; images may be of another size than those that were learned from.

        Returns
        -------
        array, shape (n, H, W) or (H, W)
            Of the kind and dtype of `noisy`; a DataArray keeps its dimensions, coordinates and name.

        Raises
        ------
        InvalidInputError
            If shapes do not fit, or a number is not finite.

        Warns
        -----
        ConvergenceWarning
            If an image did not reach `solve_tol`.
        """
        check_is_fitted(self, "theta_")
        (data,), leave = enter(noisy, names=("noisy",), dtype=self.dtype, device=self.device)
        single = data.ndim == self._data_ndim() - 1
        data = data[None] if single else data
        if data.ndim != self._data_ndim() or data.numel() == 0:
            raise InvalidInputError(
                f"noisy must hold samples with {self._data_ndim() - 1} axes, and an axis for the samples before them; "
                f"got shape {tuple(data.shape)}."
            )
        shape = self.shape_ if data.shape[1:] != self.shape_ and data.ndim != 3 else data.shape[1:]
        problem = self._problem(data, tuple(shape))
        layer = ImplicitArgmin(problem, tol=self.solve_tol, solver=self.lower_solver)
        with torch.no_grad():
            images = layer(torch.from_numpy(self.theta_), problem.start().to(data))
        return leave(images[0] if single else images)

    def denoise(self, noisy):
        """Restore images; the same as `transform`.

        Parameters
        ----------
        noisy : array, shape (n, H, W) or (H, W), or data as in `fit`
            Data.

        Returns
        -------
        array, shape (n, H, W) or (H, W)
            Of the kind and dtype of `noisy`.
        """
        return self.transform(noisy)

    def score(self, noisy, clean):
        """Return the mean peak signal-to-noise ratio of restored images.

        Parameters
        ----------
        noisy : array, shape (n, H, W) or (H, W), or data as in `fit`
            Data.
        clean : array, shape (n, H, W) or (H, W)
            The images that the data belong to.

        Returns
        -------
        float
            In dB, for the range of the images that were learned from, ``peak_``.
        """
        (noisy, clean), _ = enter(noisy, clean, names=("noisy", "clean"), dtype=self.dtype, device=self.device)
        images = self.transform(noisy)
        if clean.ndim == 2:
            images, clean = images[None], clean[None]
        return float(psnr(images, clean, self.peak_).to(torch.float64).mean())

    def _data_ndim(self):
        """Return the axes of a batch of data."""
        A = as_measurement(self.operator).on(self.shape_)
        return 3 if A.data_shape is None else 1 + len(A.data_shape)

    def _square(self):
        """Return mu0: what was given, else 0 for denoising and a thousandth for operators with a null space."""
        if self.mu0 is not None:
            return self.mu0
        return 0.0 if self.operator is None else 1e-3

    def _noise_level(self, noisy, clean):
        """Return the root mean square of noisy - A clean, which sets the units of weights and widths."""
        A = as_measurement(self.operator).on(tuple(clean.shape[1:])).to(clean.device, clean.dtype)
        data = A.forward(clean, torch.arange(len(clean), device=clean.device))
        if data.shape != noisy.shape:
            raise InvalidInputError(
                f"noisy must have the shape that operator makes of clean, {tuple(data.shape)}; got "
                f"{tuple(noisy.shape)}."
            )
        sigma, size = (float(t.to(torch.float64).square().mean().sqrt()) for t in (noisy - data, clean))
        # Without noise, or without an image, there is no scale; any will do, but 0.
        return sigma or 1e-3 * size or 1.0


class LearnedTV(_ImageEstimator):
    r"""Total variation with a learned weight alpha and a learned width nu of its bend.

    .. math:: \hat x = \arg\min_x \tfrac12 \|A x - y\|^2 + \tfrac{\alpha}2 \sum \sqrt{(D x)^2 + \nu^2}

    Parameters
    ----------
    operator : None, Mask, Blur, LinearOperator, or tuple (forward, adjoint)
        How data arise from images; None (the default) for denoising.
    mu0 : float or None
        Weight of half the square of x; None (the default) takes 0 for denoising, else 1e-3, since most operators have
        a null space.
    theta0 : array, shape (2,), or None
        Start (log alpha, log nu); None (the default) takes the root mean square s of noisy - A clean: alpha = s and
        nu = s / 5, which is near the optimum for photographs.
    method : str or options object
        Method of `learn_hyperparameters`; "auto" by default.
    tol : float
        Its tolerance; 1e-4 by default, relative to the loss: weights matter in their second digit.
    max_iter : int
        Its steps at most; 200 by default.
    max_units, max_seconds : float or None
        Its budget; none by default.
    bounds : tuple (low, high) or None
        Bounds of theta; None (the default) keeps it within 12 of the start, and nu above a 55th of its start.
    lower_solver : {"auto", "nag", "newton_cg", "lbfgs"}
        Method for images at given hyperparameters; "auto" by default.
    solve_tol : float
        Relative distance to the minimiser in `transform`; 1e-4 by default.
    batch_size, n_jobs : int or None
        Images at work at once, and workers; all and one by default.
    dtype, device : None, str, torch.dtype or torch.device
        Where and in what to compute; None (the default) asks the data.
    random_state : None, int or numpy.random.Generator
        For methods that draw; 0 by default.
    verify : bool
        Check the bars of the trace; False by default.
    callback : callable or None
        ``callback(n_iter, step)``; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do without convergence; None (the default) asks the configuration.
    progress : bool or None
        Show a bar; None (the default) asks the configuration.

    Attributes
    ----------
    theta_ : ndarray, shape (2,)
        (log alpha, log nu).
    alpha_, nu_ : float
        Weight and width, in the units of the images.
    bilevel_result_ : BilevelResult
        What `learn_hyperparameters` returned, with bars of the loss and its gradient.
    noise_level_ : float
        Root mean square of noisy - A clean.
    peak_ : float
        Range of the clean images; 1 where they are constant.
    n_iter_ : int
        Steps of the search.

    References
    ----------
    L. Rudin, S. Osher, E. Fatemi, 1992; K. Kunisch, T. Pock, 2013; Salehi, Mukherjee, Roberts, Ehrhardt, 2025, arXiv
    2308.10098.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.bilevel import LearnedTV
    >>> rng = np.random.default_rng(0)
    >>> clean = np.zeros((3, 16, 16))
    >>> clean[:, 4:12, 4:12] = 1.0
    >>> noisy = clean + 0.1 * rng.standard_normal(clean.shape)
    >>> model = LearnedTV().fit(noisy[:2], clean[:2])
    >>> bool(model.score(noisy[2:], clean[2:]) > 26)
    True
    """

    def __init__(
        self,
        operator=None,
        *,
        mu0=None,
        theta0=None,
        method="auto",
        tol=1e-4,
        max_iter=200,
        max_units=None,
        max_seconds=None,
        bounds=None,
        lower_solver="auto",
        solve_tol=1e-4,
        batch_size=None,
        n_jobs=None,
        dtype=None,
        device=None,
        random_state=0,
        verify=False,
        callback=None,
        on_failure=None,
        progress=None,
    ):
        self.operator = operator
        self.mu0 = mu0
        self.theta0 = theta0
        self.method = method
        self.tol = tol
        self.max_iter = max_iter
        self.max_units = max_units
        self.max_seconds = max_seconds
        self.bounds = bounds
        self.lower_solver = lower_solver
        self.solve_tol = solve_tol
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.verify = verify
        self.callback = callback
        self.on_failure = on_failure
        self.progress = progress

    def _problem(self, y, shape):
        return total_variation(y, self.operator, self._square(), shape=shape)

    def _start(self, scale, rng):
        """Return the start and its bounds."""
        start = torch.tensor([math.log(scale), math.log(scale / 5)], dtype=torch.float64)
        return start, start - torch.tensor([_REACH, _NARROW]), start + _REACH

    def _read(self, theta):
        self.alpha_, self.nu_ = (float(v) for v in np.exp(theta))


class FieldsOfExperts(_ImageEstimator):
    r"""A regulariser made of learned filters, each with a learned weight and width.

    .. math:: \hat x = \arg\min_x \tfrac12 \|A x - y\|^2
              + \tfrac12 \sum_k \alpha_k \sum \sqrt{(c_k * x)^2 + \nu_k^2}

    Parameters
    ----------
    operator : None, Mask, Blur, LinearOperator, or tuple (forward, adjoint)
        How data arise from images; None (the default) for denoising.
    n_filters : int
        K; 10 by default.
    size : int
        Side of the filters, odd; 5 by default.
    boundary : {"reflect", "periodic"}
        How images go on beyond their border; mirrored by default.
    mu0 : float or None
        Weight of half the square of x; None (the default) takes 0 for denoising, else 1e-3, since most operators have
        a null space.
    theta0 : array, shape (1 + 2 K + K size^2,), or None
        Start; None (the default) takes `field_of_experts_start`, in units of ten times the root mean square of
        noisy - A clean.
    method : str, options object or None
        Method of `learn_hyperparameters`; None (the default) takes ``Auto(direction="lbfgs")``: weights, widths and the
        size of filters can stand in for one another, which makes Gauss-Newton matrices singular.
    tol : float
        Its tolerance; 1e-2 by default, relative to the loss, below which more steps gain little.
    max_iter : int
        Its steps at most; 100 by default: the loss falls fast at first, and slowly for thousands of steps.
    max_units, max_seconds : float or None
        Its budget; none by default.
    bounds : tuple (low, high) or None
        Bounds of theta; None (the default) keeps logarithms within 12 of the start, widths above a 55th of their start
        and filters within ten times theirs.
    lower_solver : {"auto", "nag", "newton_cg", "lbfgs"}
        Method for images at given hyperparameters; "auto" by default.
    solve_tol : float
        Relative distance to the minimiser in `transform`; 1e-4 by default.
    batch_size, n_jobs : int or None
        Images at work at once, and workers; all and one by default.
    dtype, device : None, str, torch.dtype or torch.device
        Where and in what to compute; None (the default) asks the data.
    random_state : None, int or numpy.random.Generator
        Source of the first filters; 0 by default.
    verify : bool
        Check the bars of the trace; False by default.
    callback : callable or None
        ``callback(n_iter, step)``; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do without convergence; None (the default) asks the configuration.
    progress : bool or None
        Show a bar; None (the default) asks the configuration.

    Attributes
    ----------
    theta_ : ndarray, shape (1 + 2 K + K size^2,)
        Logarithm of the common weight, those of the weights, those of the widths, filters.
    alpha_, nu_ : ndarray, shape (K,)
        Weights and widths.
    filters_ : ndarray, shape (K, size, size)
        Filters, without their means.
    bilevel_result_ : BilevelResult
        What `learn_hyperparameters` returned, with bars of the loss and its gradient.
    noise_level_ : float
        Root mean square of noisy - A clean.
    peak_ : float
        Range of the clean images; 1 where they are constant.
    n_iter_ : int
        Steps of the search.

    References
    ----------
    S. Roth, M. Black, Fields of experts, 2009; Y. Chen, R. Ranftl, T. Pock, 2014, arXiv 1401.2804.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.bilevel import FieldsOfExperts
    >>> from sciml.datasets import noisy
    >>> slope = np.linspace(0, 1, 16)
    >>> clean = np.stack([slope + 0 * slope[:, None], slope[:, None] * slope, np.maximum(slope, slope[:, None])])
    >>> data = noisy(clean, sigma=0.1)
    >>> model = FieldsOfExperts(n_filters=2, size=3, max_iter=10, on_failure="ignore").fit(data[:2], clean[:2])
    >>> bool(model.score(data[2:], clean[2:]) > 24)
    True
    """

    def __init__(
        self,
        operator=None,
        *,
        n_filters=10,
        size=5,
        boundary="reflect",
        mu0=None,
        theta0=None,
        method=None,
        tol=1e-2,
        max_iter=100,
        max_units=None,
        max_seconds=None,
        bounds=None,
        lower_solver="auto",
        solve_tol=1e-4,
        batch_size=None,
        n_jobs=None,
        dtype=None,
        device=None,
        random_state=0,
        verify=False,
        callback=None,
        on_failure=None,
        progress=None,
    ):
        self.operator = operator
        self.n_filters = n_filters
        self.size = size
        self.boundary = boundary
        self.mu0 = mu0
        self.theta0 = theta0
        self.method = method
        self.tol = tol
        self.max_iter = max_iter
        self.max_units = max_units
        self.max_seconds = max_seconds
        self.bounds = bounds
        self.lower_solver = lower_solver
        self.solve_tol = solve_tol
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.verify = verify
        self.callback = callback
        self.on_failure = on_failure
        self.progress = progress

    def _problem(self, y, shape):
        options = {"n_filters": self.n_filters, "size": self.size, "boundary": self.boundary}
        return field_of_experts(y, self.operator, self._square(), shape=shape, **options)

    def _start(self, scale, rng):
        """Return the start and its bounds."""
        K = self.n_filters
        start = field_of_experts_start(K, self.size, scale=10 * scale, random_state=rng)
        low, high = start - _REACH, start + _REACH
        low[1 + K : 1 + 2 * K] = start[1 + K : 1 + 2 * K] - _NARROW
        # Weights and widths can stand in for the size of filters, which need not be large.
        limit = float(start[1 + 2 * K :].abs().max()) * 10
        low[1 + 2 * K :], high[1 + 2 * K :] = -limit, limit
        return start, low, high

    def _read(self, theta):
        K = self.n_filters
        self.alpha_, self.nu_ = np.exp(theta[0] + theta[1 : 1 + K]), np.exp(theta[1 + K : 1 + 2 * K])
        filters = theta[1 + 2 * K :].reshape(K, self.size, self.size)
        self.filters_ = filters - filters.mean((1, 2), keepdims=True)
