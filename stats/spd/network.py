r"""SPDNet: blocks of BiMap, batch norm and ReEig, then the logarithm and a linear layer.

.. math:: X \to W X W^T \to \text{batch norm} \to \mathrm{ReEig} \to \dots \to \log \to \mathrm{vech} \to
          \text{logits}

Notation  dims = (n_0, n_1, ..., n_m) sizes of the matrices; X (b, n_0, n_0) or (b, channels, n_0, n_0).
Cost      two eigendecompositions a block (one for the last, log-Euclidean block), none backward.
Pitfalls  without a batch norm the unit of the data moves the logarithms: divide by a mean trace before.
References Z. Huang et al., A Riemannian network for SPD matrix learning, AAAI 2017, arXiv 1608.04233; D. Brooks et
          al., arXiv 1909.02414; R. Kobler et al., arXiv 2206.01323.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.batch_norm import SPDBatchNorm
from sciml.stats.spd.layers import BiMap, LogEig, ReEig, SPDDropout, SPDVech
from sciml.stats.spd.literal_batch_norm import GBWBatchNorm
from sciml.stats.spd.multinomial import SPDMLR
from sciml.validation import check_number, check_option

__all__ = ["SPDNet"]


class SPDNet(torch.nn.Module):
    r"""A network from SPD matrices to logits.

    Parameters
    ----------
    dims : sequence of int
        Sizes of the matrices, the input's first; none larger than the one before.
    n_classes : int
        Number of classes, at least 2.
    metric : {"logeuclid", "bw", "gbw", "airm", "logchol"}
        Geometry of the batch norms; log-Euclidean by default.
    batchnorm : {"spd", "literal"} or None
        :class:`~sciml.stats.spd.batch_norm.SPDBatchNorm` (the default), the published layer with its folding, or none.
    center : {"running", "batch", "momentum"}
        What the batch norms centre at in training; the running mean by default.
    theta : float
        Power of the batch norms; 1 by default.
    n_domains : int or None
        Statistics for each of so many domains; None (the default) keeps one set.
    channels : int
        Matrices a sample, each with maps and statistics of its own; 1 by default.
    dropout : float
        Probability that :class:`~sciml.stats.spd.layers.SPDDropout` drops a channel of the input; 0 by default.
    classifier : {"linear", "mlr"}
        A linear layer on the logarithm (the default), or
        :class:`~sciml.stats.spd.multinomial.SPDMLR`.
    pool : torch.nn.Module or None
        Makes matrices of what comes in, such as ``CovPool()`` of series; None (the default): matrices come in.
    rng : numpy.random.Generator or None
        Draws the start of all parameters; None (the default) draws from torch.

    Attributes
    ----------
    norms : torch.nn.ModuleList
        The batch norms, one a block; empty without.

    Raises
    ------
    InvalidInputError
        If an argument is out of range or matrices do not fit.

    References
    ----------
    Z. Huang et al., arXiv 1608.04233.

    Examples
    --------
    >>> import torch
    >>> SPDNet((4, 3, 2), 5)(torch.eye(4, dtype=torch.float64).repeat(6, 1, 1)).shape
    torch.Size([6, 5])
    """

    def __init__(
        self,
        dims,
        n_classes,
        *,
        metric="logeuclid",
        batchnorm="spd",
        center="running",
        theta=1.0,
        n_domains=None,
        channels=1,
        dropout=0.0,
        classifier="linear",
        pool=None,
        rng=None,
    ):
        super().__init__()
        dims = tuple(dims)
        if len(dims) < 2:
            raise InvalidInputError(f"dims must hold at least two sizes; got {dims}. Pass such as (n, n // 2).")
        n_classes = check_number("n_classes", n_classes, low=2, integer=True)
        check_option("batchnorm", "none" if batchnorm is None else batchnorm, ("spd", "literal", "none"))
        check_option("classifier", classifier, ("linear", "mlr"))
        if batchnorm == "literal" and (channels != 1 or n_domains is not None):
            raise InvalidInputError(
                f"batchnorm='literal' knows one channel and no domains; got channels={channels}, "
                f"n_domains={n_domains}. Use batchnorm='spd'."
            )
        if n_domains is not None and batchnorm is None:
            raise InvalidInputError(f"n_domains needs a batch norm; got n_domains={n_domains} with batchnorm=None.")
        self.dims, self.n_domains, self.pool = dims, n_domains, pool
        self.dropout = SPDDropout(dropout, rng=rng)
        pairs = list(zip(dims[:-1], dims[1:], strict=True))
        self.maps = torch.nn.ModuleList([BiMap(a, b, channels, rng=rng) for a, b in pairs])
        options = {"metric": metric, "center": center, "theta": theta, "n_domains": n_domains, "channels": channels}
        norms = []
        if batchnorm == "literal":
            norms = [GBWBatchNorm(b, theta=theta) for _, b in pairs]
        elif batchnorm == "spd":
            norms = [SPDBatchNorm(b, **options) for _, b in pairs]
        self.norms = torch.nn.ModuleList(norms)
        self.rectify, self.logarithm, self.flatten = ReEig(), LogEig(), SPDVech()
        n = dims[-1]
        if classifier == "mlr":
            self.head = SPDMLR(n, n_classes, channels=channels, rng=rng)
        else:
            # Without its own start, which would draw from torch's global generator.
            n_features = channels * n * (n + 1) // 2
            self.head = torch.nn.utils.skip_init(torch.nn.Linear, n_features, n_classes, dtype=torch.float64)
            # From zero the first step already goes the right way; drawn weights must first be unlearned.
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)

    def forward(self, X, domain=None):
        """Return logits.

        Parameters
        ----------
        X : torch.Tensor, shape (b, n_0, n_0) or (b, channels, n_0, n_0), or what `pool` takes
            SPD matrices.
        domain : int, torch.Tensor of int, shape (b,), or None
            Domains, needed with, and only with, `n_domains`.

        Returns
        -------
        torch.Tensor, shape (b, n_classes)

        Examples
        --------
        >>> import torch
        >>> SPDNet((3, 2), 2)(torch.eye(3, dtype=torch.float64).repeat(6, 1, 1)).shape
        torch.Size([6, 2])
        """
        X = self._enter(X)
        last = len(self.maps) - 1
        for i, layer in enumerate(self.maps):
            X = layer(X)
            if i == last and self._fused():
                return self.head(self.flatten(self.norms[i].forward_log(X, domain)))
            X = self._norm(i, X, domain)
            if i < last or isinstance(self._norm_of(i), GBWBatchNorm):
                X = self.rectify(X)  # the literal layer folds onto singular matrices
        if isinstance(self.head, SPDMLR):
            return self.head(X)
        return self.head(self.flatten(self.logarithm(X)))

    def _enter(self, X):
        if self.pool is not None:
            X = self.pool(X)
        return self.dropout(X.to(self.maps[0].base.dtype))

    def _norm_of(self, i):
        return self.norms[i] if len(self.norms) else None

    def _fused(self):
        """Whether the last norm can give the logarithm that the linear layer wants."""
        return isinstance(self._norm_of(-1), SPDBatchNorm) and not isinstance(self.head, SPDMLR)

    def _norm(self, i, X, domain):
        norm = self._norm_of(i)
        if norm is None:
            if domain is not None:
                raise InvalidInputError("domain must be None without batch norms; got domains. Set n_domains.")
            return X
        return norm(X) if isinstance(norm, GBWBatchNorm) else norm(X, domain)

    @torch.no_grad()
    def adapt(self, X, domain=None, iters=20):
        """Compute the statistics of the batch norms anew from unlabelled data, layer by layer.

        Parameters
        ----------
        X : torch.Tensor
            As in :meth:`forward`; at least two samples.
        domain : int, torch.Tensor of int, shape (b,), or None
            Which domains to reset; as in :meth:`forward`.
        iters : int
            Barycentre steps; 20 by default.

        Returns
        -------
        SPDNet
            The network itself.

        Raises
        ------
        InvalidInputError
            If there is no batch norm that can adapt.

        Examples
        --------
        >>> import torch
        >>> net = SPDNet((3, 2), 2, n_domains=2)
        >>> net.adapt(torch.eye(3, dtype=torch.float64).repeat(6, 1, 1), domain=1).norms[0].ready.tolist()
        [False, True]
        """
        if not all(isinstance(norm, SPDBatchNorm) for norm in self.norms) or not len(self.norms):
            raise InvalidInputError("adapt needs batch norms of batchnorm='spd'; got none. Build the network so.")
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        X = self._enter(X)
        for layer, norm in zip(self.maps, self.norms, strict=True):
            X = layer(X)
            norm.reset_running_stats(X, domain, iters)
            X = self.rectify(norm(X, domain))
        for module, training in modes:
            module.training = training
        return self
