"""The spectrum of an expansion: how much of u lies under which carrier."""

from __future__ import annotations

import numpy as np
import torch

from sciml.solvers.gp_pde.features import ProductBasis

__all__ = ["basis_spectrum"]


def basis_spectrum(basis, theta):
    """Frequencies of an expansion along each dimension.

    Parameters
    ----------
    basis : JointBasis or ProductBasis
        Features.
    theta : torch.Tensor, shape (P,)
        Coefficients.

    Returns
    -------
    list of dict, length d
        Arrays ``omega`` (rad / unit), ``weight`` (units of u), ``bandwidth`` (rad / unit), by falling weight.
    """
    if isinstance(basis, ProductBasis):
        return [_axis_spectrum(basis, theta, j) for j in range(basis.n_dims)]
    return _joint_spectrum(basis, theta)


def _sorted(omega, weight, bandwidth):
    order = np.argsort(-np.asarray(weight), kind="stable")
    return {
        "omega": np.asarray(omega)[order],
        "weight": np.asarray(weight)[order],
        "bandwidth": np.asarray(bandwidth)[order],
    }


def _blocks(sizes, base):
    """Slices of block 0 and of each carrier's pair of blocks along one axis."""
    yield slice(0, base)
    at = base
    for m in sizes:
        yield slice(at, at + 2 * m)
        at += 2 * m


def _axis_spectrum(basis, theta, j):
    """Sizes of the blocks of one axis of a product basis, by their Gram matrices."""
    axis = basis.axes[j]
    nodes, weights = axis.quadrature()
    raw = axis._evaluate_raw(torch.as_tensor(nodes), 0).numpy()
    T = np.moveaxis(theta.detach().cpu().numpy().reshape(basis.shape), j, 0).reshape(basis.shape[j], -1)
    C = axis._transform @ T  # coefficients of the raw features, (P_1, others)
    volume = float(np.prod(np.array(basis.upper) - np.array(basis.lower)))
    half = (axis.upper - axis.lower) / 2
    if axis.periodic:
        base = 2 * np.pi / (axis.upper - axis.lower)
        k = np.r_[0, np.tile(np.arange(1, axis.n_base), 2)]
        energy = (C**2).sum(axis=1) * (weights @ raw**2) / volume
        power = np.bincount(k, energy)
        return _sorted(base * np.arange(len(power)), np.sqrt(power), np.zeros(len(power)))
    omega, size, width = [0.0, *axis.omega], [], []
    for q, block in enumerate(_blocks(axis.n_envelope, axis.n_base)):
        values = raw[:, block] @ C[block]
        size.append(np.sqrt(max(0.0, float((weights @ values**2).sum())) / volume))
        k = np.arange(axis.n_base) if q == 0 else np.tile(np.arange(axis.n_envelope[q - 1]), 2)
        power = (C[block] ** 2).sum(axis=1)
        width.append(np.sqrt((k**2 @ power) / power.sum()) / half if power.sum() > 0 else 0.0)
    return _sorted(omega, size, width)


def _joint_spectrum(basis, theta):
    """Sizes of the blocks of a joint basis, on points of the box."""
    rng = np.random.default_rng(0)
    lower, upper = np.array(basis.lower), np.array(basis.upper)
    X = torch.as_tensor(lower + (upper - lower) * rng.random((800, basis.n_dims)), device=theta.device)
    Phi = basis.evaluate(X, (0,) * basis.n_dims)
    sizes = [len(s) for s in basis._sets[1:]]
    blocks = list(_blocks(sizes, len(basis._sets[0])))
    out = []
    for j in range(basis.n_dims):
        half = (upper[j] - lower[j]) / 2
        omega, size, width = [0.0, *np.abs(np.reshape(basis.omega, (-1, basis.n_dims))[:, j])], [], []
        for q, block in enumerate(blocks):
            c = theta[block]
            size.append(float((Phi[:, block] @ c).square().mean().sqrt()))
            k = np.tile(basis._sets[q][:, j], 1 if q == 0 else 2)
            power = c.detach().cpu().numpy() ** 2
            width.append(float(np.sqrt((k**2 @ power) / power.sum()) / half) if power.sum() > 0 else 0.0)
        out.append(_sorted(omega, size, width))
    return out
