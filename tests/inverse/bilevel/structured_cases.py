"""Structured lower levels beside the same energies written in plain torch."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sciml.inverse.bilevel import Blur, Differences, Exp, Filters, LowerProblem, Mask, StructuredLower, Term
from sciml.linalg.operators import as_operator
from sciml.random import generator, normal

H, W, B = 7, 6, 3
Y = normal(generator(1), (B, H, W))
IDX = torch.arange(B)
KERNEL = normal(generator(2), (3, 5))
FACTORS = torch.outer(torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.6, 0.3])).double()
MASKS = normal(generator(3), (B, H, W)).clamp_min(0)
FIXED = normal(generator(4), (2, 3, 3))
MATRIX = normal(generator(5), (10, H * W))


def smooth(t, nu):
    return torch.sqrt(t**2 + nu**2)


def log_cosh(t, nu):
    return nu * torch.log(torch.cosh(t / nu))


def total_variation(x, w, nu, phi=smooth):
    return w * (phi(torch.diff(x, dim=1), nu).sum((1, 2)) + phi(torch.diff(x, dim=2), nu).sum((1, 2)))


def correlate(x, c, mode):
    r, s = c.shape[-2] // 2, c.shape[-1] // 2
    return F.conv2d(F.pad(x[:, None], (s, s, r, r), mode=mode), c.reshape(-1, 1, *c.shape[-2:]))


def experts(x, theta, K, s, mode="reflect", centred=True):
    c = theta[1 + 2 * K :].reshape(K, s, s)
    c = c - c.mean((1, 2), keepdim=True) if centred else c
    t = correlate(x, c, mode)
    w, nu = 0.5 * torch.exp(theta[0] + theta[1 : 1 + K]), torch.exp(theta[1 + K : 1 + 2 * K])
    return (w[:, None, None] * smooth(t, nu[:, None, None])).sum((1, 2, 3))


def fit(r):
    return 0.5 * (r**2).reshape(len(r), -1).sum(1)


@dataclass
class Case:
    """A structured problem, its plain twin, and where to compare them."""

    lower: StructuredLower
    plain: LowerProblem
    theta: torch.Tensor
    x: torch.Tensor


def case(A, y, terms, h, n, mu0=0.0, shape=(H, W)):
    theta = 0.3 * normal(generator(7), n) - 0.5
    lower = StructuredLower(A, y, terms, mu0, shape=shape)
    return Case(lower, LowerProblem(h, mu=None), theta, normal(generator(8), (B, *shape)))


def foe_terms(K, s, **options):
    bank = Filters(index=slice(1 + 2 * K, None), n_filters=K, size=s, **options)
    return [Term(bank, "smooth-abs", Exp(0, slice(1, 1 + K), scale=0.5), Exp(slice(1 + K, 1 + 2 * K)))]


TV = Term(Differences(), "smooth-abs", Exp(0, scale=0.5), Exp(1))
ROW = Term(Differences((-1,)), "log-cosh", Exp(0), lambda theta: torch.exp(theta[1]))
SQUARE = Term(Filters(FIXED), "square", lambda theta: torch.stack([theta[0] ** 2, torch.exp(theta[1])]))
GIVEN = Term((lambda x: 2 * x, lambda u: 2 * u, 2.0), "smooth-abs", Exp(0, 1), 0.3)
MATRIX_TERM = Term(as_operator(MATRIX), "smooth-abs", 0.7, Exp(0))


def tv(theta):
    return 0.5 * torch.exp(theta[0]), torch.exp(theta[1])


def weighted_square(x, theta):
    return 0.5 * (torch.stack([theta[0] ** 2, torch.exp(theta[1])])[:, None, None]
                  * correlate(x, FIXED, "reflect") ** 2).sum((1, 2, 3))  # fmt: skip


def cases():
    """Return the cases by name."""
    every = (torch.arange(H * W).double() % 5 - 1).reshape(H * W, 1)
    A = as_operator(torch.eye(H * W).double() + 0.1 * every)
    vectors = Y.reshape(B, -1)
    return {
        "tv": case(None, Y, [TV], lambda x, th, i: fit(x - Y[i]) + total_variation(x, *tv(th)), 2),
        "tv with a square": case(
            None, Y, [TV],
            lambda x, th, i: fit(x - Y[i]) + total_variation(x, *tv(th)) + 0.1 * (x**2).sum((1, 2)), 2, 0.2,
        ),
        "inpainting": case(
            Mask(MASKS), Y, [TV],
            lambda x, th, i: fit(MASKS[i] * x - Y[i]) + total_variation(x, *tv(th)) + 0.05 * (x**2).sum((1, 2)), 2, 0.1,
        ),
        "mirrored blur": case(
            Blur(KERNEL), Y, [TV],
            lambda x, th, i: fit(correlate(x, KERNEL, "reflect")[:, 0] - Y[i])
            + total_variation(x, *tv(th)) + 0.05 * (x**2).sum((1, 2)), 2, 0.1,
        ),
        "periodic blur": case(
            Blur(FACTORS, "periodic"), Y, [TV],
            lambda x, th, i: fit(correlate(x, FACTORS, "circular")[:, 0] - Y[i])
            + total_variation(x, *tv(th)) + 0.05 * (x**2).sum((1, 2)), 2, 0.1,
        ),
        "matrix": case(
            A, vectors, [Term(Differences((-1,)), "smooth-abs", Exp(0), Exp(1))],
            lambda x, th, i: fit(x + 0.1 * every.T * x.sum(1, keepdim=True) - vectors[i])
            + torch.exp(th[0]) * smooth(torch.diff(x, dim=1), torch.exp(th[1])).sum(1)
            + 0.05 * (x**2).sum(1), 2, 0.1, shape=(H * W,),
        ),
        "functions": case(
            (lambda x: 3 * x[..., ::2], lambda z: 3 * torch.stack([z, 0 * z], -1).reshape(*z.shape[:-1], -1)),
            Y[..., ::2], [TV],
            lambda x, th, i: fit(3 * x[..., ::2] - Y[i][..., ::2]) + total_variation(x, *tv(th))
            + 0.05 * (x**2).sum((1, 2)), 2, 0.1, shape=(H, W),
        ),
        "several terms": case(
            None, Y, [ROW, SQUARE, GIVEN, MATRIX_TERM],
            lambda x, th, i: fit(x - Y[i])
            + torch.exp(th[0]) * log_cosh(torch.diff(x, dim=2), torch.exp(th[1])).sum((1, 2))
            + weighted_square(x, th) + torch.exp(th[0] + th[1]) * smooth(2 * x, 0.3).sum((1, 2))
            + 0.7 * smooth(x.reshape(len(x), -1) @ MATRIX.T, torch.exp(th[0])).sum(1), 2,
        ),
        "quadratic": case(None, Y, [SQUARE], lambda x, th, i: fit(x - Y[i]) + weighted_square(x, th), 2),
        "experts": case(
            None, Y, foe_terms(3, 5), lambda x, th, i: fit(x - Y[i]) + experts(x, th, 3, 5), 1 + 6 + 75
        ),
        "periodic experts": case(
            None, Y, foe_terms(2, 3, boundary="periodic", zero_mean=False),
            lambda x, th, i: fit(x - Y[i]) + experts(x, th, 2, 3, "circular", False), 1 + 4 + 18,
        ),
        "masked experts": case(
            Mask(MASKS[0]), Y, foe_terms(1, 1, zero_mean=False),
            lambda x, th, i: fit(MASKS[0] * x - Y[i]) + experts(x, th, 1, 1, centred=False)
            + 0.15 * (x**2).sum((1, 2)), 4, 0.3,
        ),
    }  # fmt: skip
