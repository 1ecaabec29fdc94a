r"""Eigenspectra of the weights of a neural network: how heavy their tails are, without the bias of a layer's shape.

.. math:: \alpha = 1 + K \Big/ \sum_{j \ge i} \ln (\lambda_j / \lambda_i)

A trained layer has a heavier tail of eigenvalues than noise, and the exponent alpha says how heavy. Read from the whole
matrix, it depends on the shape, even for noise; read from many windows of one shape (FARMS), it does not. Each exponent
comes with an interval and its distance from noise, and drives layer-wise learning rates and layer-wise sparsity.
"""
