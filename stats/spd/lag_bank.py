r"""Sums of lagged products, computed once and shared by all orders and lags of augmented covariances.

.. math:: S_k = \sum_{t=0}^{T-1-k} x_{t+k} x_t'

Notation  x (N, n, T) trials, less their means mu; p order; l lag; T' = T - (p-1) l samples that all p windows have;
          window i: x_{t+il}, 0 <= t < T'; S_k (N, n, n).
          Block (i, j), i >= j, k = (i-j) l, of the Toeplitz estimate: S_k / T. Of the windowed estimate: the sum of
          x_{s+k} x_s' over jl <= s < jl + T', which is S_k less its first j and its last p-1-(i-j)-j chunks of l terms.
Cost      N T n^2 for each k = m l in use, whatever the number of (p, l) that share it; an estimate then costs
          N p^2 l n^2 for the chunks (a share 2l/T of a direct computation) and N p^2 n^2 to write it.
Pitfalls  means are taken out first, so that a large offset costs no digits; where the windows are shorter than what is
          subtracted, (p-1) l >= T', products are formed directly. No lag ever wraps around from the end of a trial to
          its beginning.
References  I. Carrara, T. Papadopoulo, Classification of BCI-EEG based on augmented covariance matrix, 2023, arXiv
            2302.04508.
"""

from __future__ import annotations

import numpy as np

from sciml._config import resolve
from sciml.exceptions import InvalidInputError
from sciml.linalg.memory import budget

__all__ = ["LagBank"]


class LagBank:
    r"""Lagged products of trials of equal length.

    Parameters
    ----------
    x : ndarray, shape (N, n, T)
        Trials; not changed.
    memory : int, float, str or None
        Bytes that the kept products may take; what does not fit is computed again where needed. None, the default, asks
        the configuration.

    Attributes
    ----------
    mean : ndarray, shape (N, n)
        Means over time, units of the data.
    x : ndarray, shape (N, n, T)
        Trials less their means.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.lag_bank import LagBank
    >>> bank = LagBank(np.array([[[1.0, -1.0, 1.0, -1.0]]]))
    >>> bank.sums(1).ravel(), bank.toeplitz(2, 1)[0].tolist()
    (array([-3.]), [[1.0, -0.75], [-0.75, 1.0]])
    """

    def __init__(self, x, *, memory=None):
        x = np.asarray(x, dtype=np.float64)
        self.mean = x.mean(axis=2)
        self.x = x - self.mean[:, :, None]
        self._allowed = budget(resolve("memory", memory), "cpu")
        self._sums = {}

    @property
    def n_times(self):
        """int: samples T of each trial."""
        return self.x.shape[2]

    def sums(self, k):
        r"""Return the sums of products at one lag, :math:`S_k`.

        Parameters
        ----------
        k : int
            Lag in samples, from 0 to T - 1.

        Returns
        -------
        ndarray, shape (N, n, n)
            Units of the data squared; shared: not to be written to.

        Raises
        ------
        InvalidInputError
            If the lag is negative or reaches beyond the trial.
        """
        if k not in self._sums:
            T = self.n_times
            if not 0 <= k < T:
                raise InvalidInputError(f"k must be a lag from 0 to {T - 1}, T - 1; got {k}.")
            S = self.x[:, :, k:] @ self.x[:, :, : T - k].transpose(0, 2, 1)
            if (len(self._sums) + 1) * S.nbytes > self._allowed:
                return S
            self._sums[k] = S
        return self._sums[k]

    def toeplitz(self, order, lag):
        """Return block-Toeplitz matrices of biased autocovariances; positive semidefinite by construction.

        Parameters
        ----------
        order : int
            Number of windows p, at least 1.
        lag : int
            Samples between windows l, at least 1, with (p-1) l < T.

        Returns
        -------
        ndarray, shape (N, n p, n p)
            Window-major: rows i n to (i+1) n belong to x_{t+il}. Units of the data squared.
        """
        return _assemble(order, lambda m: [self.sums(m * lag)] * (order - m), self.n_times)

    def windowed(self, order, lag):
        """Return second moments about the means of whole trials, over the samples common to all windows.

        Parameters
        ----------
        order : int
            Number of windows p, at least 1.
        lag : int
            Samples between windows l, at least 1, with (p-1) l < T - 1.

        Returns
        -------
        ndarray, shape (N, n p, n p)
            Not centred once more at the means of the windows, which differ a little from those of the trials.
        """
        T, x = self.n_times - (order - 1) * lag, self.x
        if (order - 1) * lag >= T:
            z = np.concatenate([x[:, :, i * lag : i * lag + T] for i in range(order)], axis=1)
            C = z @ z.transpose(0, 2, 1) / T
            return (C + C.transpose(0, 2, 1)) / 2
        return _assemble(order, lambda m: self._windows(order, lag, m), T)

    def _windows(self, order, lag, m):
        """Return the sums of x_{s+k} x_s', k = m l, over jl <= s < jl + T', for j = 0, ..., p-1-m."""
        k, q = m * lag, order - 1 - m
        S = self.sums(k)
        if not q:
            return [S]
        T = self.n_times - (order - 1) * lag
        head, tail = self._chunks(0, k, q, lag), self._chunks(T, k, q, lag)
        lost = tail.sum(axis=1)
        blocks = [S - lost]
        for j in range(q):
            lost = lost + head[:, j] - tail[:, j]
            blocks.append(S - lost)
        return blocks

    def _chunks(self, start, k, q, lag):
        """Return q sums, (N, q, n, n), of x_{s+k} x_s' over chunks of l samples from a start on."""
        N, n, _ = self.x.shape
        late = self.x[:, :, start + k : start + k + q * lag].reshape(N, n, q, lag)
        early = self.x[:, :, start : start + q * lag].reshape(N, n, q, lag)
        return late.transpose(0, 2, 1, 3) @ early.transpose(0, 2, 3, 1)


def _assemble(order, lower, divisor):
    """Return matrices from their blocks (i, i - m), given for each m by a function as a list over j = i - m."""
    first = lower(0)
    N, n, _ = first[0].shape
    C = np.empty((N, order, n, order, n))
    for m in range(order):
        for j, block in enumerate(first if m == 0 else lower(m)):
            if m == 0:
                # Rounding leaves products of a matrix with its transpose crooked by an ulp in some libraries.
                C[:, j, :, j] = (block + block.transpose(0, 2, 1)) / (2 * divisor)
            else:
                np.divide(block, divisor, out=C[:, j + m, :, j])
                C[:, j, :, j + m] = C[:, j + m, :, j].transpose(0, 2, 1)
    return C.reshape(N, order * n, order * n)
