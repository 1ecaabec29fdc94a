r"""Batch normalisation of SPD matrices in five geometries: centre at the mean, divide by the dispersion, add a bias.

In the canonical Bures-Wasserstein form the metric parameter is the running barycentre itself, M = C C':

.. math:: X' = C^{-1} X^\theta C^{-T}, \quad Y = h(X'), \quad
          h(x) = g\bigl(1 + c(\sqrt x - 1)\bigr)^2, \quad c = \frac{s}{\sqrt{v^2 + \epsilon}}, \quad
          v^2 = \mathbb{E} \sum_k (\sqrt{x_k} - 1)^2, \quad \mathrm{out} = (B Y B^T)^{1/\theta}

In the coordinates of the metric the mean is the identity, where the layer is one strictly increasing function of the
spectrum: it cannot fold, at any scale of the data. The other geometries are in
:mod:`sciml.stats.spd.normalising_geometries`.

Notation  X (b, ch, n, n); C lower triangular; v^2, c, s a number for each channel; B the learned bias; g(u) = u for
          u >= 0.1, continued to stay positive and increasing.
Cost      one eigendecomposition a matrix and pass (log-Euclidean two, one if the logarithm is asked for; generalised
          two; log-Cholesky none; a power theta adds two), no eigendecomposition backward.
Pitfalls  a first pass in training mode, or reset_running_stats, must come before eval. In training a batch of a single
          matrix (of a domain) uses the running statistics and leaves them.
References Z. Wang et al., Learning to normalize on the SPD manifold under Bures-Wasserstein geometry, CVPR 2025,
          arXiv 2504.00660; R. Kobler et al., SPD domain-specific batch normalization to crack interpretable
          unsupervised domain adaptation in EEG, NeurIPS 2022, arXiv 2206.01323; D. Brooks et al., Riemannian batch
          normalization for SPD neural networks, NeurIPS 2019, arXiv 1909.02414.
"""

import math
from typing import Any

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.spd.functions import spectral
from sciml.stats.spd.normalising_geometries import make_geometry
from sciml.stats.spd.normalising_maps import DELTA
from sciml.stats.spd.running_statistics import RunningStatistics, group_mean, keep_single, pick, sizes_of
from sciml.validation import check_number, check_option

__all__ = ["SPDBatchNorm"]

METRICS = ("logeuclid", "bw", "gbw", "airm", "logchol")
_ALIASES = {"le": "logeuclid", "log-euclidean": "logeuclid", "wasserstein": "bw", "riemann": "airm", "ai": "airm"}


class SPDBatchNorm(RunningStatistics):
    r"""Normalise batches of SPD matrices; statistics, bias and scale are in the state_dict.

    Parameters
    ----------
    n : int
        Size of the matrices.
    metric : {"logeuclid", "bw", "gbw", "airm", "logchol"}
        Geometry; log-Euclidean by default, since it was best or tied where the five were compared. "bw" admits singular
        matrices; "gbw" learns its metric M, which starts at the mean of the first batch.
    theta : float
        Power to which matrices are raised before, and whose inverse after; 1 by default. It compresses spectra in the
        Bures-Wasserstein geometries.
    affine : bool or "scale"
        Learn a bias (an SPD matrix), which starts at the identity, and a scale s, which starts at the root of n, since
        the variance sums over n eigenvalues, or in "bw" and "gbw" at 1, which bends few of them; True by default.
        "scale" learns s alone: a linear layer that follows the logarithm makes up for the bias. False keeps both at
        their start.
    dispersion : {"scalar", "none"}
        Divide by the root mean squared distance to the mean (the default), or only centre.
    center : {"running", "batch", "momentum"}
        What training centres at: the running mean (the default; evaluation then sees the same map), the mean of the
        batch, or the running mean after it moved by its own momentum, with separate statistics for evaluation.
    momentum : float
        Weight of a new batch in the running statistics, in (0, 1]; 0.1 by default.
    eps : float
        Added to the variance :math:`v^2`, dimensionless; 1e-5 by default.
    n_domains : int or None
        Keep statistics for so many domains (subjects, sessions), with shared bias and scale; None (the default) keeps
        one set.
    channels : int
        Channels with statistics and parameters of their own; 1 by default, when matrices may come as (b, n, n).
    dtype : torch.dtype or None
        Of parameters and statistics; None (the default) is float64.
    device : str, torch.device or None
        Where they lie.

    Attributes
    ----------
    mean : torch.Tensor, shape (n_domains, channels, n, n)
        State of the running mean, see :meth:`running_mean`.
    variance : torch.Tensor, shape (n_domains, channels)
        Running :math:`v^2`, dimensionless.
    count : torch.Tensor, shape (n_domains,)
        Matrices seen.

    Raises
    ------
    InvalidInputError
        If an argument is out of range.

    Notes
    -----
    Multiplying the data by a constant does not change the output: means start at the first batch, and everything after
    the centring is dimensionless. Gradients are exact for the map applied, through the batch's dispersion and, with
    ``center="batch"`` and "momentum", its mean; the running statistics of earlier batches are constants.

    References
    ----------
    Z. Wang et al., arXiv 2504.00660; R. Kobler et al., arXiv 2206.01323.

    Examples
    --------
    >>> import torch
    >>> X = torch.diag_embed(1e-6 * torch.tensor([[1.0, 4.0], [4.0, 16.0]], dtype=torch.float64))
    >>> norm = SPDBatchNorm(2, metric="logeuclid")
    >>> out = norm(X)
    >>> torch.linalg.matrix_exp(out.diagonal(dim1=-2, dim2=-1).log().mean(0)[:, None, None]).flatten().tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        n,
        *,
        metric="logeuclid",
        theta=1.0,
        affine=True,
        dispersion="scalar",
        center="running",
        momentum=0.1,
        eps=1e-5,
        n_domains=None,
        channels=1,
        dtype=None,
        device=None,
    ):
        super().__init__()
        self.n = check_number("n", n, low=1, integer=True)
        self.metric = check_option("metric", _ALIASES.get(metric, metric), METRICS)
        self.theta = check_number("theta", theta)
        if self.theta == 0:
            raise InvalidInputError("theta must not be 0; got 0. Use metric='logeuclid', which is the limit.")
        self.dispersion = check_option("dispersion", dispersion, ("scalar", "none"))
        self.center = check_option("center", center, ("running", "batch", "momentum"))
        self.momentum = check_number("momentum", momentum, low=0, high=1, inclusive="high")
        self.eps = check_number("eps", eps, low=0, inclusive="neither")
        self.n_domains = None if n_domains is None else check_number("n_domains", n_domains, low=1, integer=True)
        self.channels = check_number("channels", channels, low=1, integer=True)
        self.geometry = make_geometry(self.metric)
        options: dict[str, Any] = {"dtype": dtype or torch.float64, "device": device}
        ch = self.channels
        self._register(options)
        biased = check_option("affine", str(affine), ("True", "False", "scale")) == "True"
        self.register_parameter("bias", torch.nn.Parameter(torch.zeros(ch, n, n, **options)) if biased else None)
        scaled = bool(affine) and self.dispersion == "scalar"
        # v^2 sums over n eigenvalues: from sqrt(n) each of them starts with unit dispersion. Roots of eigenvalues lie
        # about 1 and must stay positive: so wide a spread would bend many, so that all together start with it.
        self._start_scale = 1.0 if self.metric in ("bw", "gbw") else math.sqrt(n)
        scale = torch.full((ch,), math.log(self._start_scale), **options)
        self.register_parameter("log_scale", torch.nn.Parameter(scale) if scaled else None)
        self._last = None

    # ------------------------------------------------------------ the map

    def forward(self, X, domain=None):
        """Return normalised matrices; in training mode, move the running statistics.

        Parameters
        ----------
        X : torch.Tensor, shape (b, n, n) or (b, channels, n, n)
            SPD matrices in any unit; the first only with one channel.
        domain : int, torch.Tensor of int, shape (b,), or None
            Domain of the batch or of each matrix; needed with, and only with, `n_domains`.

        Returns
        -------
        torch.Tensor, shape of `X`
            Dimensionless SPD matrices.

        Raises
        ------
        InvalidInputError
            If shapes do not fit, an entry is not finite, or a domain has no statistics in evaluation mode.

        Examples
        --------
        >>> import torch
        >>> SPDBatchNorm(2, metric="bw")(torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)).shape
        torch.Size([3, 2, 2])
        """
        centred, c, shape = self._normalise(X, domain)
        if self.theta == 1:
            Y = self.geometry.output(centred, c, self.bias)
        elif self.metric == "logeuclid":
            Y = spectral(self.geometry.logarithm(centred, c, self.bias) / self.theta, "exp")
        else:
            Y = spectral(self.geometry.output(centred, c, self.bias), "pow", 1 / self.theta)
        return Y.reshape(shape)

    def forward_log(self, X, domain=None):
        """Return the logarithm of :meth:`forward`, without the exponential that the next layer would undo.

        Parameters
        ----------
        X : torch.Tensor, shape (b, n, n) or (b, channels, n, n)
            SPD matrices.
        domain : int, torch.Tensor of int, shape (b,), or None
            As in :meth:`forward`.

        Returns
        -------
        torch.Tensor, shape of `X`
            Symmetric matrices; one eigendecomposition a matrix in the log-Euclidean geometry, and without bias in
            the geometries that whiten.

        Examples
        --------
        >>> import torch
        >>> SPDBatchNorm(2).forward_log(torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)).abs().max().item()
        0.0
        """
        centred, c, shape = self._normalise(X, domain)
        return (self.geometry.logarithm(centred, c, self.bias) / self.theta).reshape(shape)

    def _normalise(self, X, domain):
        shape = X.shape
        X, domains, inverse = self._enter(X, domain)
        if self.theta != 1:
            X = spectral(X, "pow", self.theta)
        if self.training:
            self._start(X, domains, inverse)
        elif not bool(self.ready[domains].all()):
            missing = domains[~self.ready[domains]].tolist()
            where = "the layer" if self.n_domains is None else f"domain {missing[0]}"
            raise InvalidInputError(
                f"X must come after statistics; {where} has none. Train on a batch first, or adapt to unlabelled data "
                "by reset_running_stats."
            )
        centred, variance = self._train(X, domains, inverse) if self.training else self._eval(X, domains, inverse)
        c = torch.ones_like(variance)
        if self.dispersion == "scalar":
            c = (variance + self.eps).rsqrt()
            c = c * (self._start_scale if self.log_scale is None else self.log_scale.exp())
        c = pick(c, inverse).unsqueeze(-1)
        self._last = None if centred.eig is None else (centred.eig[0], c.detach())
        return centred, c, shape

    def _eval(self, X, domains, inverse):
        name = "test_" if self.center == "momentum" else ""
        mean, variance = getattr(self, f"{name}mean")[domains], getattr(self, f"{name}variance")[domains]
        return self.geometry.centre(X, pick(mean, inverse), self._metric()), variance

    def _train(self, X, domains, inverse):
        sizes = sizes_of(X, inverse, len(domains))
        many = sizes > 1  # a single matrix has no dispersion: it uses the running statistics and leaves them
        if not bool(many.any()):
            centred = self.geometry.centre(X, pick(self.mean[domains], inverse), self._metric())
            return centred, self.variance[domains]
        metric, mean, variance = self._metric(), self.mean[domains], self.variance[domains]
        train_momentum = float(self.momenta[0]) if self.center == "momentum" else self.momentum
        centred = self.geometry.centre(X, pick(mean, inverse), metric)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.center != "running"):
            step = group_mean(self.geometry.step(centred), inverse, sizes)
            if self.center != "running":
                moved, _ = self.geometry.move(mean, step, 1.0 if self.center == "batch" else train_momentum)
                used = keep_single(many, moved, mean)
        with torch.no_grad():
            kept, good = self.geometry.move(mean, step, train_momentum)
        if self.center != "running":
            centred = self.geometry.centre(X, pick(used, inverse), metric)
        batch = group_mean(self.geometry.scatter(centred), inverse, sizes)
        mixed = torch.lerp(variance, batch, train_momentum)
        with torch.no_grad():
            self._store("", domains, many, kept, mixed)
            if self.center == "momentum":
                self._move_test(X, domains, inverse, sizes, metric)
            self.count[domains] += torch.where(many, sizes, 0)
            self._count_failures(domains, many & ~good.all(-1))
        return centred, keep_single(many, mixed if self.center == "momentum" else batch, variance)

    # ------------------------------------------------------------ statistics

    @torch.no_grad()
    def reset_running_stats(self, X, domain=None, iters=20):
        """Compute the statistics anew from data, without labels: adaptation to a new domain.

        Parameters
        ----------
        X : torch.Tensor, shape (N, n, n) or (N, channels, n, n)
            SPD matrices, as this layer would see them.
        domain : int, torch.Tensor of int, shape (N,), or None
            As in :meth:`forward`; only the domains named are reset.
        iters : int
            Barycentre steps from the arithmetic mean; 20 by default.

        Returns
        -------
        SPDBatchNorm
            The layer itself.

        Raises
        ------
        InvalidInputError
            If shapes do not fit or a domain has fewer than two matrices.

        Examples
        --------
        >>> import torch
        >>> X = torch.diag_embed(torch.tensor([[1.0, 4.0], [9.0, 16.0]], dtype=torch.float64))
        >>> SPDBatchNorm(2, metric="bw").reset_running_stats(X).running_mean().diagonal().tolist()
        [4.0, 9.0]
        """
        iters = check_number("iters", iters, low=1, integer=True)
        X, domains, inverse = self._enter(X, domain)
        if self.theta != 1:
            X = spectral(X, "pow", self.theta)
        self._start_metric(X)
        for place, number in enumerate(domains.tolist()):
            mine = X if inverse is None else X[inverse == place]
            if len(mine) < 2:
                raise InvalidInputError(
                    f"X must hold at least two matrices of a domain; got {len(mine)} of domain {number}. Give more."
                )
            self._restart(mine, number, iters)
            self.ready[number], self.count[number] = True, len(mine)
        return self

    def diagnostics(self):
        """Return what went on in the layer, as plain numbers.

        Returns
        -------
        dict
            ``count``, ``ready`` and ``failures`` (batches that would have made the mean singular) by domain,
            ``variance`` by domain and channel, and ``compressed``: the fraction of eigenvalues of the last batch so far
            below the mean that the map bends (metric "bw", else and before the first batch None).

        Examples
        --------
        >>> SPDBatchNorm(2).diagnostics()["count"]
        [0]
        """
        compressed = None
        if self.metric == "bw" and self._last is not None:
            s, c = self._last
            compressed = float((1 + c * (s.clamp(min=0).sqrt() - 1) < DELTA).double().mean())
        return {
            "count": self.count.tolist(),
            "ready": self.ready.tolist(),
            "failures": self.failures.tolist(),
            "variance": self.variance.tolist(),
            "compressed": compressed,
        }

    def extra_repr(self):
        """Return the settings for the printed form.

        Returns
        -------
        str

        Examples
        --------
        >>> SPDBatchNorm(2)
        SPDBatchNorm(2, metric='logeuclid', theta=1, center='running', n_domains=None, channels=1)
        """
        return (
            f"{self.n}, metric={self.metric!r}, theta={self.theta:g}, center={self.center!r}, "
            f"n_domains={self.n_domains}, channels={self.channels}"
        )

    # ------------------------------------------------------------ the door

    def _enter(self, X, domain):
        """Return (b, ch, n, n), the domains present, and the place of each matrix's domain among them."""
        n, ch = self.n, self.channels
        allowed = X.ndim in (3, 4) and X.shape[-2:] == (n, n) and (X.shape[1] == ch if X.ndim == 4 else ch == 1)
        if not allowed or len(X) == 0:
            rule = f"(b, {ch}, {n}, {n})" + (f" or (b, {n}, {n})" if ch == 1 else "")
            raise InvalidInputError(
                f"X must be of shape {rule} with b >= 1; got {tuple(X.shape)}. Check n and channels."
            )
        if X.is_complex():
            raise InvalidInputError(f"X must be real; got {X.dtype}. Pass the real matrices [[Re, -Im], [Im, Re]].")
        if not bool(torch.isfinite(X.detach().sum())):  # one pass; which matrix it is is looked for only then
            finite = torch.isfinite(X.detach()).flatten(1).all(-1)
            if bool(finite.all()):
                raise InvalidInputError("X must have a finite sum; its entries are too large. Rescale the data.")
            raise InvalidInputError(
                f"X must be finite; matrix {int((~finite).nonzero()[0, 0])} is not. Remove it, or lower the rate."
            )
        X = X.reshape(len(X), ch, n, n).to(self.mean.dtype)
        if self.n_domains is None:
            if domain is not None:
                raise InvalidInputError(f"domain must be None without n_domains; got {domain!r}. Set n_domains.")
            return X, torch.zeros(1, dtype=torch.int64, device=X.device), None
        if domain is None:
            raise InvalidInputError(f"domain must be given with n_domains={self.n_domains}; got None. Pass domain=.")
        domain = torch.as_tensor(domain, device=X.device)
        if domain.is_floating_point() or domain.ndim > 1 or (domain.ndim == 1 and len(domain) != len(X)):
            raise InvalidInputError(
                f"domain must be an int or ints of shape ({len(X)},); got {domain.dtype} of shape "
                f"{tuple(domain.shape)}. Give one for each matrix."
            )
        if bool(((domain < 0) | (domain >= self.n_domains)).any()):
            raise InvalidInputError(
                f"domain must lie in [0, {self.n_domains}); got {int(domain.min())} to {int(domain.max())}. "
                "Number the domains from 0, or raise n_domains."
            )
        domains, inverse = torch.unique(domain.to(torch.int64).reshape(-1), return_inverse=True)
        return X, domains, None if len(domains) == 1 else inverse
