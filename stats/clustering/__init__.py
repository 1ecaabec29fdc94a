r"""Clustering by semidefinite programming, with a bound on how far the labels are from the best ones.

.. math:: \max_{Z_1, \dots, Z_K} \sum_k \langle A_k, Z_k \rangle \quad \text{subject to } Z_k \succeq 0,\; Z_k \ge 0,\;
          \operatorname{tr} Z_k = 1,\; \textstyle\sum_k Z_k \mathbf 1 = \mathbf 1

Labels, not centroids, are the unknowns: every cluster has a matrix Z_k, and a covariance of its own. The relaxation is
solved by non-negative factors of low rank, refined statistically, and any labels get a proof of how good they are.
"""
