r"""Running statistics of batch norms on SPD matrices: means and dispersions by domain, started at data and moved.

.. math:: v^2 \leftarrow (1 - \gamma) v^2 + \gamma v_b^2, \qquad M \leftarrow \text{the geodesic from } M
          \text{ towards the mean of the batch, at } \gamma

Notation  k domains, ch channels; mean (k, ch, n, n) in the form of the geometry; variance (k, ch); gamma momentum.
Cost      three barycentre steps once, at the first batch; then one small factorisation a domain.
Pitfalls  all of it is in the state_dict; a layer without statistics cannot evaluate.
References R. Kobler et al., SPD domain-specific batch normalization to crack interpretable unsupervised domain
          adaptation in EEG, NeurIPS 2022, arXiv 2206.01323.
"""

import warnings

import torch

from sciml.exceptions import ConditioningWarning, InvalidInputError
from sciml.linalg.spd.functions import spectral
from sciml.stats.spd.normalising_geometries import make_geometry, positive_lower
from sciml.validation import check_number

__all__ = ["RunningStatistics", "group_mean", "keep_single", "momentum_schedule", "pick", "sizes_of"]


def momentum_schedule(epoch, n_epochs, fraction):
    r"""Return the training and evaluation momentum of domain-specific momentum batch norm.

    .. math:: \eta = 1 - \rho^{K w} + \rho^K, \quad 1 - \tau = 1 - 0.85^{f (1 - w) + w}, \quad
              w = \frac{\max(K - k, 0)}{K - 1}, \quad \rho = f^{1/K}

    Parameters
    ----------
    epoch : int
        k, from 1.
    n_epochs : int
        K, at least 2: epochs in which the momentum moves, commonly ten fewer than there are in all.
    fraction : float
        f, the share of a batch that belongs to one domain, in (0, 1].

    Returns
    -------
    train, test : float
        Weights of the new batch in the statistics of training (from 1 down to f) and of evaluation (from 0.15 down).

    Raises
    ------
    InvalidInputError
        If an argument is out of range.

    References
    ----------
    R. Kobler et al., SPD domain-specific batch normalization, NeurIPS 2022, arXiv 2206.01323, algorithm 1.

    Examples
    --------
    >>> momentum_schedule(1, 40, 0.2)[0], round(momentum_schedule(40, 40, 0.2)[0], 3)
    (1.0, 0.2)
    """
    k = check_number("epoch", epoch, low=1, integer=True)
    K = check_number("n_epochs", n_epochs, low=2, integer=True)
    f = check_number("fraction", fraction, low=0, high=1, inclusive="high")
    w = max(K - k, 0) / (K - 1)
    return 1 - f**w + f, 1 - 0.85 ** (f * (1 - w) + w)


class RunningStatistics(torch.nn.Module):
    """What :class:`~sciml.stats.spd.batch_norm.SPDBatchNorm` keeps and moves; see there.

    Examples
    --------
    >>> from sciml.stats.spd.batch_norm import SPDBatchNorm
    >>> isinstance(SPDBatchNorm(2), RunningStatistics)
    True
    """

    def _register(self, options):
        k, ch, n = self.n_domains or 1, self.channels, self.n
        names = ("", "test_") if self.center == "momentum" else ("",)
        for name in names:
            self.register_buffer(f"{name}mean", torch.eye(n, **options).repeat(k, ch, 1, 1))
            self.register_buffer(f"{name}variance", torch.ones(k, ch, **options))
        self.register_buffer("ready", torch.zeros(k, dtype=torch.bool, device=options["device"]))
        self.register_buffer("count", torch.zeros(k, dtype=torch.int64, device=options["device"]))
        self.register_buffer("failures", torch.zeros(k, dtype=torch.int64, device=options["device"]))
        self.register_buffer("momenta", torch.tensor([self.momentum, self.momentum], dtype=torch.float64))
        if self.geometry.needs_metric:
            self.register_buffer("metric_start", torch.eye(n, **options).repeat(ch, 1, 1))
            self.register_buffer("metric_ready", torch.zeros((), dtype=torch.bool, device=options["device"]))
            self.metric_parameter = torch.nn.Parameter(torch.zeros(ch, n, n, **options))

    def _metric(self):
        if not self.geometry.needs_metric:
            return None
        # Relative to the start: the free numbers are dimensionless, so one learning rate serves every unit.
        return self.metric_start @ positive_lower(self.metric_parameter)

    def _move_test(self, X, domains, inverse, sizes, metric):
        """Move the statistics that evaluation uses by their own momentum."""
        momentum = float(self.momenta[1])
        mean, variance = self.test_mean[domains], self.test_variance[domains]
        inner = self.geometry.centre(X, pick(mean, inverse), metric)
        kept, _ = self.geometry.move(mean, group_mean(self.geometry.step(inner), inverse, sizes), momentum)
        batch = group_mean(self.geometry.scatter(inner), inverse, sizes)
        self._store("test_", domains, sizes > 1, kept, torch.lerp(variance, batch, momentum))

    def _store(self, name, domains, many, mean, variance):
        for kind, new in (("mean", mean), ("variance", variance)):
            stored = getattr(self, f"{name}{kind}")
            stored[domains] = keep_single(many, new.detach(), stored[domains])

    def _count_failures(self, domains, failed):
        if not bool(failed.any()):
            return
        if not bool(self.failures.any()):
            warnings.warn(
                "SPDBatchNorm kept its running mean: the moved one is singular to working precision. Estimate the "
                "covariances with shrinkage, or use larger batches; diagnostics() counts such batches.",
                ConditioningWarning,
                stacklevel=6,
            )
        self.failures[domains] += failed.to(torch.int64)

    @torch.no_grad()
    def _start(self, X, domains, inverse):
        """Start statistics, and a learned metric, at the data of domains that have none."""
        if bool(self.ready[domains].all()):
            return
        self._start_metric(X)
        for place, domain in enumerate(domains.tolist()):
            if not self.ready[domain]:
                mine = X if inverse is None else X[inverse == place]
                self._restart(mine, domain, iters=3)
                # One matrix gives a mean but no dispersion: the next batch starts anew.
                self.ready[domain] = len(mine) > 1

    def _start_metric(self, X):
        if not self.geometry.needs_metric or self.metric_ready:
            return
        plain = make_geometry("bw")
        mean = plain.start(X, None)[None]
        for _ in range(3):
            mean, _ = plain.move(mean, plain.step(plain.centre(X, mean, None)).mean(0, keepdim=True), 1.0)
        self.metric_start.copy_(mean[0])
        self.metric_ready.fill_(True)

    def _restart(self, X, domain, iters):
        geometry, metric = self.geometry, self._metric()
        mean = geometry.start(X, metric)[None]
        for _ in range(iters):
            mean, _ = geometry.move(mean, geometry.step(geometry.centre(X, mean, metric)).mean(0, keepdim=True), 1.0)
        variance = geometry.scatter(geometry.centre(X, mean, metric)).mean(0)
        for name in ("", "test_") if self.center == "momentum" else ("",):
            getattr(self, f"{name}mean")[domain] = mean[0]
            getattr(self, f"{name}variance")[domain] = variance if len(X) > 1 else torch.ones_like(variance)

    def add_domains(self, number=1):
        """Make room for the statistics of further domains, to be filled by :meth:`reset_running_stats`.

        Parameters
        ----------
        number : int
            How many; 1 by default.

        Returns
        -------
        SPDBatchNorm
            The layer itself.

        Raises
        ------
        InvalidInputError
            If the layer has no domains.

        Examples
        --------
        >>> from sciml.stats.spd.batch_norm import SPDBatchNorm
        >>> SPDBatchNorm(2, n_domains=1).add_domains().ready.tolist()
        [False, False]
        """
        number = check_number("number", number, low=1, integer=True)
        if self.n_domains is None:
            raise InvalidInputError("n_domains must be set to add domains; got None. Build the layer with n_domains=1.")
        fresh = type(self)(
            self.n,
            metric=self.metric,
            center=self.center,
            n_domains=number,
            channels=self.channels,
            dtype=self.mean.dtype,
            device=self.mean.device,
        )
        names = ["mean", "variance", "ready", "count", "failures"]
        names += ["test_mean", "test_variance"] if self.center == "momentum" else []
        for name in names:
            setattr(self, name, torch.cat([getattr(self, name), getattr(fresh, name)]))
        self.n_domains += number
        return self

    def running_mean(self, domain=0):
        """Return the running mean as an SPD matrix, in the units of the data to the power theta.

        Parameters
        ----------
        domain : int
            Which domain; 0 by default.

        Returns
        -------
        torch.Tensor, shape (n, n), or (channels, n, n) with several channels
            The mean that evaluation centres at.

        Examples
        --------
        >>> from sciml.stats.spd.batch_norm import SPDBatchNorm
        >>> SPDBatchNorm(2, metric="bw").running_mean().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        """
        state = (self.test_mean if self.center == "momentum" else self.mean)[domain]
        if not bool(self.ready[domain]) and self.metric in ("logeuclid", "logchol"):
            state = torch.zeros_like(state)
        if self.metric == "logeuclid":
            mean = spectral(state, "exp")
        elif self.metric == "gbw":
            C = self._metric().detach()
            mean = C @ state @ C.mT
        else:
            L = positive_lower(state) if self.metric == "logchol" else state
            mean = L @ L.mT
        return mean[0] if self.channels == 1 else mean

    def set_epoch(self, epoch, n_epochs, fraction=1.0):
        """Set the momenta of ``center="momentum"`` for an epoch, see :func:`momentum_schedule`.

        Parameters
        ----------
        epoch, n_epochs : int
            Which epoch, from 1, and how many the momentum moves in.
        fraction : float
            Share of a batch that belongs to one domain; 1 by default.

        Examples
        --------
        >>> from sciml.stats.spd.batch_norm import SPDBatchNorm
        >>> norm = SPDBatchNorm(2, center="momentum", n_domains=5)
        >>> norm.set_epoch(1, 40, 0.2)
        >>> norm.momenta.tolist()
        [1.0, 0.15000000000000002]
        """
        if self.center == "momentum":
            self.momenta.copy_(torch.tensor(momentum_schedule(epoch, n_epochs, fraction), dtype=torch.float64))


def pick(values, inverse):
    """Return each matrix's own of the domains' values; one domain broadcasts.

    Parameters
    ----------
    values : torch.Tensor, shape (k, ...)
        One for each domain present.
    inverse : torch.Tensor of int, shape (b,), or None
        Place of each matrix's domain; None where there is one domain.

    Returns
    -------
    torch.Tensor, shape (b, ...) or (1, ...)

    Examples
    --------
    >>> pick(torch.tensor([5.0, 7.0]), torch.tensor([1, 1, 0])).tolist()
    [7.0, 7.0, 5.0]
    """
    return values if inverse is None else values[inverse]


def sizes_of(X, inverse, k):
    """Return how many matrices each domain has.

    Parameters
    ----------
    X : torch.Tensor, shape (b, ...)
        The batch.
    inverse : torch.Tensor of int, shape (b,), or None
        As in :func:`pick`.
    k : int
        Number of domains present.

    Returns
    -------
    torch.Tensor of int, shape (k,)

    Examples
    --------
    >>> sizes_of(torch.zeros(3, 1), torch.tensor([1, 1, 0]), 2).tolist()
    [1, 2]
    """
    if inverse is None:
        return torch.tensor([len(X)], device=X.device)
    return torch.bincount(inverse, minlength=k)


def keep_single(many, new, old):
    """Return new values for domains of several matrices, old ones for domains of a single matrix.

    Parameters
    ----------
    many : torch.Tensor of bool, shape (k,)
        Which domains have several; a domain alone must.
    new, old : torch.Tensor, shape (k, ...)
        The values.

    Returns
    -------
    torch.Tensor, shape (k, ...)

    Examples
    --------
    >>> keep_single(torch.tensor([True, False]), torch.ones(2), torch.zeros(2)).tolist()
    [1.0, 0.0]
    """
    if len(many) == 1:
        return new
    return torch.where(many.reshape(-1, *([1] * (new.ndim - 1))), new, old)


def group_mean(values, inverse, sizes):
    """Return means over the matrices of each domain.

    Parameters
    ----------
    values : torch.Tensor, shape (b, ...)
        One for each matrix.
    inverse : torch.Tensor of int, shape (b,), or None
        As in :func:`pick`.
    sizes : torch.Tensor of int, shape (k,)
        How many each domain has.

    Returns
    -------
    torch.Tensor, shape (k, ...)

    Examples
    --------
    >>> group_mean(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([1, 1, 0]), torch.tensor([1, 2])).tolist()
    [5.0, 2.0]
    """
    if inverse is None:
        return values.mean(0, keepdim=True)
    sums = torch.zeros(len(sizes), *values.shape[1:], dtype=values.dtype, device=values.device)
    return sums.index_add(0, inverse, values) / sizes.reshape(-1, *([1] * (values.ndim - 1)))
