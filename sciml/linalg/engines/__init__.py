r"""Sums :math:`o_{ir} = \sum_j \varphi(y_i, x_j)\, b_{jr}` over all pairs of points, without the matrix.

Four engines compute them: "dense" forms the matrix, "eager" works tile by tile, "compiled" fuses one tile of fixed
size into one loop, "keops" is pykeops. ``engine="auto"`` chooses by device, dtype, size and memory and tells the open
traces (:func:`sciml.trace`) why. Gradients of any order come by sums of the same kind.
"""

from sciml.linalg.engines.availability import EngineUnavailable as EngineUnavailable
from sciml.linalg.engines.availability import availability as availability
from sciml.linalg.engines.choose import thresholds as thresholds
from sciml.linalg.engines.choose import thresholds_file as thresholds_file
from sciml.linalg.engines.reductions import kernel_logsumexp as kernel_logsumexp
from sciml.linalg.engines.reductions import kernel_matrix as kernel_matrix
from sciml.linalg.engines.reductions import kernel_sum as kernel_sum
