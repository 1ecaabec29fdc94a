"""Statistics: describe, group and compare samples, covariance matrices and spectra, and say how sure one may be.

A method of this area takes data of shape (n_samples, n_features) or a batch of matrices, treats weights as repeated
samples, and gives an answer that turns and scales with the data. Each problem has its folder, read in the order
problem, method, result, plotting: clustering with a proof, classification of covariance matrices and eigenspectra of
neural networks are part of this version.
"""

if __name__ != "sciml.stats":
    raise ImportError("import sciml.stats, not stats")
