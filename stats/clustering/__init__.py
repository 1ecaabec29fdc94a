r"""Clustering by semidefinite programming, with a bound on how far the labels are from the best ones.

.. math:: \max_{Z_1, \dots, Z_K} \sum_k \langle A_k, Z_k \rangle \quad \text{subject to } Z_k \succeq 0,\; Z_k \ge 0,\;
          \operatorname{tr} Z_k = 1,\; \textstyle\sum_k Z_k \mathbf 1 = \mathbf 1

Labels, not centroids, are the unknowns: every cluster has a matrix Z_k, and a covariance of its own. The relaxation is
solved by non-negative factors of low rank, refined statistically, and any labels get a proof of how good they are.
"""

from sciml.stats.clustering.gap import optimality_gap as optimality_gap
from sciml.stats.clustering.result import ClusterResult as ClusterResult
from sciml.stats.clustering.selection import NumberOfClusters as NumberOfClusters
from sciml.stats.clustering.selection import select_n_clusters as select_n_clusters
from sciml.stats.clustering.solve import cluster as cluster
from sciml.stats.clustering.solve import ila_sdp as ila_sdp
from sciml.stats.clustering.solve import kmeans_sdp as kmeans_sdp


def __getattr__(name):
    # scikit-learn is loaded with the estimators, not with the functions.
    if name in ("ILASDP", "SDPKMeans"):
        from sciml.stats.clustering import estimator

        return getattr(estimator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
