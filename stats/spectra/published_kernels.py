r"""Exponent of a convolution as published: square blocks of every kernel position, one exponent a block, their mean.

.. math:: \alpha = \frac1B \sum_b \alpha\Big(\bigcup_k \operatorname{eig}(W_{kb} W_{kb}^T)\Big)

Notation  W_k (c, r) matrix of kernel position k with its larger side first; W_kb block b of r rows, B = floor(c / r).
Cost      the eigenvalues of B blocks of r x r for each position.
Pitfalls  exponents are averaged over blocks, not pooled, so that small blocks are biased; the rows beyond the last
          block count for nothing, and the order of the neurons matters. For comparison with published numbers only.

References
----------
Y. Hu, K. Goel, V. Killiakov, Y. Yang, Eigenspectrum analysis of neural networks without aspect ratio bias, ICML 2025,
arXiv 2506.06280.
"""

from __future__ import annotations

import math

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.gram_spectrum import complex_of, divided
from sciml.stats.spectra.jackknife import pooled_hill
from sciml.stats.spectra.windows import batch_eigenvalues


def block_eigenvalues(layer, Q, *, exponent, dtype, device):
    """Return the eigenvalues of the blocks, shape (B, S r), for weights divided by 2**exponent."""
    if Q != 1:
        raise InvalidInputError(
            f'Q must be 1 for convolutions with layout="grid", as published; got {Q:g}. Use another layout.'
        )
    size = min(layer.rows, layer.cols)
    kind = complex_of(dtype) if layer.is_complex else dtype
    values = []
    for k in range(layer.n_slices):
        matrix = divided(layer.matrix(k), exponent, kind, device)
        tall = matrix if layer.rows >= layer.cols else matrix.mT
        values.append(batch_eigenvalues(tall[: len(tall) // size * size].unflatten(0, (-1, size))))
    return np.concatenate(values, axis=-1)


def mean_exponent(values, q):
    """Return the mean of the exponents of the blocks that have one."""
    exponents = [pooled_hill(block[None, None, None], q)[0] for block in values]
    known = [alpha for alpha in exponents if not math.isnan(alpha)]
    return float(np.mean(known)) if known else math.nan
