r"""Maximum likelihood from products alone: gains eliminated exactly, signals by conjugate gradients.

.. math:: f(x) = \min_d \sum_l \|W_l^{1/2} (y_l - d \circ A_l x_l)\|^2, \qquad
          d_i = \frac{\sum_l W_{li} \bar v_{li} y_{li}}{\sum_l W_{li} |v_{li}|^2}, \qquad v_l = A_l x_l

The block of the gains in the normal matrix of all unknowns is diagonal, whatever the weights and the measurement: it is
eliminated in closed form, and a step of Gauss-Newton is a linear least-squares problem for the signals,

.. math:: B\,\delta = A^H D^H W (y - D A x), \qquad B = A^H D^H W^{1/2} (I - \Pi_v) W^{1/2} D A,

with Pi_v the projector, sensor by sensor, onto v_i over the snapshots. Conjugate gradients on B take about half of the
steps that LSMR takes on gains and signals together.

Notation  r gradient left, q search direction, u = D A q, num_i = sum_l W conj(v) u, V_i = sum_l W |v|^2, c = num / V.
Cost      one product and one adjoint one a step of the inner iteration, and as many for each outer step. The inner
          iteration runs in single precision: four arrays like the signals at most, and v and u if memory allows.
Pitfalls  <q, B q> = sum W |u|^2 - sum |num|^2 / V is known before the adjoint product, which saves an array of signals;
          the two cancel for directions along x, which the gradient does not contain. Digits beyond a part of the error
          by noise are not asked for: progress is judged in units of the noise of one gain.

References
----------
G. Golub, V. Pereyra, Separable nonlinear least squares: the variable projection method, 2003.
L. Kaufman, A variable projection method for solving separable nonlinear least squares problems, 1975.
"""

from __future__ import annotations

import torch

from sciml.iterate import End, Status, Step

_FORCING = 1e-3  # relative residual at which an inner iteration ends where there is no noise to end it
_BACKTRACKS = 6  # halvings of a step that did not lower the misfit


class Reduced:
    """The least-squares problem of all signals with the gains eliminated.

    Parameters
    ----------
    stream : Stream
        Data and measurement.
    memory : float
        Bytes that arrays as large as the data may take; what does not fit is formed again whenever it is needed.

    Examples
    --------
    >>> from sciml.inverse.calibration.ensembles import PartialDFT
    >>> from sciml.inverse.calibration.matrix_free_data import Stream
    >>> problem = Reduced(Stream(torch.ones(3, 8), PartialDFT(8, 2)), memory=1e6)
    >>> problem.evaluate(torch.ones(3, 2, dtype=torch.complex64)).shape
    torch.Size([8])
    """

    def __init__(self, stream, memory):
        self.stream = stream
        size = stream.p * stream.m * torch.empty(0, dtype=stream.dtype).element_size()
        # In single precision A x takes half of what it took, and u the other half, unless the data are short already.
        self.two_in_one = stream.short is not stream.dtype
        self.keep_v, self.keep_u = size <= memory, size * (1 if self.two_in_one else 2) <= memory
        self.v, self.u, self.is_short = None, None, False
        if self.keep_v:
            self.v = torch.empty(stream.p, stream.m, dtype=stream.dtype, device=stream.y.device)
        # Right side, direction and answer of the inner iteration: before the small arrays, which would leave holes.
        shape = (3, *stream.zeros_shape())
        self.vectors = torch.empty(shape, dtype=stream.short, device=stream.y.device)
        gram = stream.ensemble.gram
        self.gram_varies = gram is not None and not bool((gram == gram[0, 0]).all())

    def evaluate(self, x):
        """Return the best gains for some signals, zero where a sensor is left out; keep A x, V and the misfit."""
        stream = self.stream
        num = torch.zeros(stream.m, dtype=stream.long, device=x.device)
        V = torch.zeros(stream.m, dtype=torch.float64, device=x.device)
        for a, b in stream.blocks:
            v = stream.forward(x, a, b)
            wv = stream.weighted(v, a, b)
            num += (wv.conj() * stream.data(a, b)).sum(0)
            V += (wv.conj() * v).real.sum(0, dtype=torch.float64)
            if self.keep_v:
                self.v[a:b] = v
        self.is_short = False
        self.V, self.inverse = V, torch.where(V > 0, 1 / torch.where(V > 0, V, 1.0), 0.0)
        self.d = num * self.inverse
        self.misfit = float(stream.energy[stream.active].sum() - (num.abs().square() * self.inverse).sum())
        if not self.keep_v and self.misfit > torch.finfo(stream.dtype).eps ** 0.5 * float(stream.energy.sum()):
            return self.d  # nothing has cancelled
        self.misfit = 0.0
        for a, b in stream.blocks:
            r = self._residual(x, a, b)
            self.misfit += float((stream.weighted(r, a, b).conj() * r).real.sum(dtype=torch.float64))
        return self.d

    def gradient(self, x):
        """Return A^H D^H W (y - D A x) in single precision, right after `evaluate`; then `shorten`."""
        stream, d = self.stream, self.d.to(self.stream.dtype)
        g = self.vectors[0].zero_()
        for a, b in stream.blocks:
            r = self._residual(x, a, b)
            self._collect(g, stream.adjoint(d.conj() * stream.weighted(r, a, b), a, b), a, b)
        self.shorten()
        return g

    def shorten(self):
        """Keep A x in single precision from here on, in place, and make room for u."""
        if self.keep_v and self.two_in_one and not self.is_short:
            for a, b in self.stream.blocks:
                self._short(a, b)[0].copy_(self.v[a:b].clone())  # what is overwritten was read before
        if self.keep_u and not self.two_in_one and self.u is None:
            self.u = torch.empty_like(self.v)
        self.is_short = True

    def _short(self, a, b):
        """Return where A x and u of a block lie in single precision."""
        if not self.two_in_one:
            return self.v[a:b], None if self.u is None else self.u[a:b]
        halves = self.v.view(self.stream.short).view(2, *self.v.shape)
        return halves[0, a:b], halves[1, a:b]

    def _residual(self, x, a, b):
        v = self.v[a:b] if self.keep_v else self.stream.forward(x, a, b)
        return self.stream.data(a, b) - self.d.to(self.stream.dtype) * v

    def _collect(self, g, t, a, b, factor=1.0):
        if self.stream.shared:
            g.add_(t.to(g.dtype), alpha=factor)
        else:
            g[a:b].add_(t.to(g.dtype), alpha=factor)

    def kept(self, x, a, b):
        """Return A x of a block, in the precision in which it is kept."""
        if self.is_short or not self.keep_v:
            return self._view(x, a, b)
        return self.v[a:b]

    def _view(self, x, a, b):
        """Return A x of a block in single precision."""
        return self._short(a, b)[0] if self.keep_v else self.stream.forward(x.to(self.stream.short), a, b)

    def products(self, x, q):
        """Return <q, B q>, and the gains c = num / V that `subtract` needs to form B q."""
        stream, d = self.stream, self.d.to(self.stream.short)
        num = torch.zeros(stream.m, dtype=stream.long, device=q.device)
        total = 0.0
        for a, b in stream.blocks:
            u = d * stream.forward(q, a, b)
            wu = stream.weighted(u, a, b)
            num += (self._view(x, a, b).conj() * wu).sum(0)
            total += float((wu.conj() * u).real.sum(dtype=torch.float64))
            if self.keep_u:
                self._short(a, b)[1].copy_(u)
        explained = float((num.abs().square() * self.inverse).sum())
        return total - explained, num * self.inverse

    def subtract(self, x, q, c, g, factor):
        """Subtract `factor` times B q from g, in place."""
        stream, d = self.stream, self.d.to(self.stream.short)
        c = c.to(stream.short)
        for a, b in stream.blocks:
            u = self._short(a, b)[1] if self.keep_u else d * stream.forward(q, a, b)
            e = stream.weighted(u - c * self._view(x, a, b), a, b)
            self._collect(g, stream.adjoint(d.conj() * e, a, b), a, b, -factor)

    def preconditioned(self, r, a, b):
        """Return r over the diagonal of A^H A where that varies; r itself where it does not."""
        if not self.gram_varies:
            return r
        gram = self.stream.gram_part(a, b).to(r.real.dtype if r.is_complex() else r.dtype)
        return torch.where(gram > 0, r / gram.clamp_min(torch.finfo(gram.dtype).tiny), 0.0)

    def add(self, x, delta, factor):
        """Add a multiple of a correction in single precision to x, in place, without a copy of all of it."""
        for _, _, (to, what) in self.parts(x, delta):
            to.add_(what.to(to.dtype), alpha=factor)

    def parts(self, *arrays):
        """Yield the blocks of arrays of signals; the whole of signals that all snapshots share."""
        if self.stream.shared:
            yield 0, self.stream.p, arrays
        else:
            for a, b in self.stream.blocks:
                yield a, b, tuple(t[a:b] for t in arrays)

    def dot(self, r):
        """Return <r, M r> with M the preconditioner, summed in double precision."""
        total = 0.0
        for a, b, (part,) in self.parts(r):
            z = self.preconditioned(part, a, b)
            total += float((part.conj() * z).real.sum(dtype=torch.float64))
        return total


@torch.no_grad()
def conjugate_gradients(problem, x, r, *, enough, max_iter):
    """Return delta with B delta near r, by how much it lowers the model of the misfit, and how it went.

    Parameters
    ----------
    problem : Reduced
        Evaluated at `x`.
    x : tensor
        Signals where the problem was linearised.
    r : tensor
        The right side, ``problem.vectors[0]``; it is overwritten.
    enough : callable
        ``enough(gain, last)`` of the decrease so far and that of the last step: whether to stop.
    max_iter : int
        Steps at most.

    Returns
    -------
    delta : tensor
        In single precision.
    gain : float
        Decrease of the model of the misfit.
    steps : list of float
        The decrease by each step.
    """
    delta, q = problem.vectors[1].zero_(), problem.vectors[2].zero_()
    rho = first = problem.dot(r)
    beta, gain, steps = 0.0, 0.0, []
    while rho > _FORCING**2 * first and len(steps) < max_iter:
        for a, b, (qp, rp) in problem.parts(q, r):
            qp.mul_(beta).add_(problem.preconditioned(rp, a, b))
        curvature, c = problem.products(x, q)
        if not curvature > 0:
            break  # a direction that the data do not see: nothing is to be gained along it
        alpha = rho / curvature
        delta.add_(q, alpha=alpha)
        problem.subtract(x, q, c, r, alpha)
        steps.append(alpha * rho)
        gain += steps[-1]
        if enough(gain, steps[-1]):
            break
        rho, before = problem.dot(r), rho
        beta = rho / before
    return delta, gain, steps


@torch.no_grad()
def refine_steps(problem, x, dof, n_gains, *, inner_tol, max_inner):
    """Yield steps of Gauss-Newton, the starting point first; ``value`` the signals, which are changed in place.

    Parameters
    ----------
    problem : Reduced
        Data and measurement.
    x : tensor
        First signals, within the reach of Gauss-Newton; overwritten.
    dof, n_gains : float
        Degrees of freedom, and gains sought.
    inner_tol : float
        The inner iteration ends when a step lowers the misfit by less than this part of `n_gains` times the variance of
        the noise.
    max_inner : int
        Inner steps at most, all outer steps together.

    Yields
    ------
    Step
        ``criterion``: the difference between the misfit and its prediction by the last linear model, in units of
        `n_gains` times the variance of the noise; 1 at the start.
    """
    stream = problem.stream
    problem.evaluate(x)
    misfit, left, inner = problem.misfit, max_inner, 0
    rounding = 1e4 * stream.p * stream.m * torch.finfo(stream.dtype).eps ** 2 * float(stream.energy.mean()) / stream.p
    yield Step(x, 1.0, {"misfit": misfit, "inner": 0})
    while left > 0:

        def enough(gain, last, misfit=misfit):
            noise = max(misfit - gain, 0.0) / max(dof, 1.0)
            return last <= inner_tol * noise * n_gains + rounding

        delta, gain, steps = conjugate_gradients(problem, x, problem.gradient(x), enough=enough, max_iter=left)
        left, inner = left - len(steps), inner + len(steps)
        problem.add(x, delta, 1.0)
        problem.evaluate(x)
        for _ in range(_BACKTRACKS):
            if problem.misfit <= misfit + rounding:
                break
            delta /= 2
            problem.add(x, delta, -1.0)
            gain *= 0.75
            problem.evaluate(x)
        else:
            return End(Status.STALLED, "no step along the direction lowers the misfit: the start may be too far")
        noise = problem.misfit / max(dof, 1.0)
        off = abs(problem.misfit - (misfit - gain)) / (noise * n_gains + rounding)
        misfit = problem.misfit
        yield Step(x, off, {"misfit": misfit, "inner": inner})
    return End(Status.MAX_ITER, f"{max_inner} inner steps were taken: raise max_inner, or see whether the data suffice")


@torch.no_grad()
def probed_variance(problem, x, leading, probes, max_inner):
    """Return by what factor the diagonal of F^+ exceeds its leading part, measured by random vectors.

    Parameters
    ----------
    problem : Reduced
        Evaluated at `x`.
    x : tensor
        Signals.
    leading : tensor, shape (m,)
        The leading part of the diagonal, zero where a sensor is left out.
    probes : int
        Random vectors.
    max_inner : int
        Steps of the solve with each.

    Returns
    -------
    float
        Mean of (F^+)_ii over the leading part; its error is about sqrt(1 / (m p probes)).
    int
        Steps taken.
    """
    stream, d = problem.stream, problem.d
    inside = leading > 0
    problem.shorten()
    generator = torch.Generator().manual_seed(0)
    ratios, work = [], 0
    for _ in range(probes):
        q = torch.randint(0, 2, (stream.m,), generator=generator).to(d.device, d.dtype) * 2 - 1
        q = torch.where(inside, q, 0)
        # Of size one in units of the leading part, and orthogonal to the gains, along which F vanishes.
        q = q * torch.where(inside, leading.clamp_min(torch.finfo(leading.dtype).tiny).rsqrt(), 0.0)
        q = q - d * torch.vdot(d, q) / torch.vdot(d, d)
        t = (q * problem.inverse).to(stream.short)
        ds = d.to(stream.short)
        r = problem.vectors[0].zero_()
        for a, b in stream.blocks:
            v = problem._view(x, a, b)
            problem._collect(r, stream.adjoint(ds.conj() * stream.weighted(v * t, a, b), a, b), a, b)
        z, gain, steps = conjugate_gradients(
            problem, x, r, enough=lambda gain, last: last <= 1e-3 * gain, max_iter=max_inner
        )
        work += len(steps)
        # <q, F^+ q> = <q, q / V> + <r, B^+ r>, and the decrease of the model is the latter.
        whole = float((q.abs().square() * problem.inverse).sum()) + gain
        ratios.append(whole / int(inside.sum()))
    return sum(ratios) / len(ratios), work
