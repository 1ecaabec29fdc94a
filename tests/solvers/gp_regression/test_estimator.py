"""The estimator keeps scikit-learn's contract and adds nothing to `fit_gp`."""

import numpy as np
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from sciml.kernels import Gaussian
from sciml.solvers.gp_regression import fit_gp
from sciml.solvers.gp_regression.estimator import GPRegressor


@parametrize_with_checks([GPRegressor(random_state=0)])
def test_scikit_learn_contract(estimator, check):
    assert check(estimator) is None  # it raises what it finds


def test_equals_the_function(rng):
    X, y = rng.uniform(0, 3, (25, 2)), rng.standard_normal(25)
    model = clone(GPRegressor(Gaussian(0.7), noise=0.3, learn="none")).fit(X, y)
    assert_array_equal(model.predict(X), fit_gp(X, y, Gaussian(0.7), noise=0.3, learn="none").mean(X))


def test_takes_a_legacy_random_state(rng):
    X, y = rng.uniform(0, 3, (25, 2)), rng.standard_normal(25)
    fits = [GPRegressor(random_state=np.random.RandomState(3)).fit(X, y).result_.log_evidence for _ in range(2)]
    assert fits[0] == fits[1]
