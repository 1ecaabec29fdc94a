r"""Covariance functions of two points, written once for every engine.

A kernel :math:`k(y, x)` is positive definite and, here, depends on the difference :math:`r = y - x` alone. It is made
with its parameters, which may be torch tensors that ask for gradients, and is used in three ways: ``k(y, x)`` gives
the dense matrix; :func:`sciml.linalg.kernel_sum` multiplies by it without forming it; sums, products and multiples of
kernels are kernels.

>>> k = Gaussian(lengthscale=2.0)
>>> k([[0.0, 0.0]], [[0.0, 0.0], [2.0, 0.0]]).round(4)
array([[1.    , 0.6065]])
"""

from sciml.kernels.base import Kernel as Kernel
from sciml.kernels.radial import Gaussian as Gaussian
from sciml.kernels.radial import InverseMultiquadric as InverseMultiquadric
from sciml.kernels.radial import Matern as Matern
from sciml.kernels.radial import Matern12 as Matern12
from sciml.kernels.radial import Matern32 as Matern32
from sciml.kernels.radial import Matern52 as Matern52
from sciml.kernels.radial import Radial as Radial
from sciml.kernels.radial import RationalQuadratic as RationalQuadratic
from sciml.kernels.separable import Laplace as Laplace
from sciml.kernels.separable import SpectralMixture as SpectralMixture
