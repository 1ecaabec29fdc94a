"""The estimator keeps scikit-learn's manners and adds nothing to `solve_pde`."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.solvers.gp_pde import PDE, Box, solve_pde
from sciml.solvers.gp_pde.estimator import GPPDERegressor


@pytest.fixture
def data():
    """u'' + 16 u = 0 and twenty values of sin 4x with noise 0.01."""
    rng = np.random.default_rng(3)
    X = rng.uniform(0, 3, (20, 1))
    return X, np.sin(4 * X[:, 0]) + 0.01 * rng.standard_normal(20)


TEMPLATE = PDE(Box([(0, 3)]), {2: 1.0, 0: "k"}, parameters={"k": (2.0, 40.0)})


def test_equals_the_function(data):
    model = clone(GPPDERegressor(TEMPLATE, sigma=0.01)).fit(*data)
    sol = solve_pde(dataclasses.replace(TEMPLATE, observations=(*data, 0.01)))
    assert model.parameters_ == sol.parameters
    mean, std = model.predict(data[0], return_std=True)
    assert_array_equal(mean, sol(data[0]))
    assert_array_equal(std, sol.std(data[0]))


def test_learns_the_parameter_and_scores(data):
    model = GPPDERegressor(TEMPLATE).fit(*data)
    assert abs(model.parameters_["k"] - 16) < 4 * model.parameters_std_["k"] < 0.5
    assert model.score(*data) > 0.999
    assert model.n_features_in_ == 1
    assert model.n_iter_ >= 1


def test_without_parameters_it_assimilates(data):
    known = dataclasses.replace(TEMPLATE, observations=data).bind({"k": 16.0})
    model = GPPDERegressor(known, sigma=0.01).fit(*data)
    x = np.linspace(0, 3, 50)[:, None]
    assert model.parameters_ == {}
    assert np.max(np.abs(model.predict(x) - np.sin(4 * x[:, 0]))) < 0.02  # two waves from twenty values of sd 0.01


def test_parameters_are_those_of_scikit_learn():
    model = GPPDERegressor(TEMPLATE, sigma=0.1)
    assert model.get_params(deep=False)["sigma"] == 0.1
    assert clone(model.set_params(noise="learn")).noise == "learn"


def test_works_in_cross_validation(data):
    assert cross_val_score(GPPDERegressor(TEMPLATE, sigma=0.01), *data, cv=3).min() > 0.99


def test_errors_name_what_is_wrong(data):
    X, y = data
    with pytest.raises(NotFittedError):
        GPPDERegressor(TEMPLATE).predict(X)
    with pytest.raises(InvalidTypeError, match="pde must be a PDE; got NoneType"):
        GPPDERegressor().fit(X, y)
    with pytest.raises(InvalidInputError, match=r"X must have 1 columns.*\(20, 2\)"):
        GPPDERegressor(TEMPLATE).fit(np.c_[X, X], y)
    with pytest.raises(ValueError, match="NaN"):
        GPPDERegressor(TEMPLATE).fit(X, np.where(y > 0.9, np.nan, y))
    with pytest.raises(ValueError, match="1 features"):
        GPPDERegressor(TEMPLATE, sigma=0.01).fit(X, y).predict(np.c_[X, X])


def test_takes_a_legacy_random_state(data):
    fits = [GPPDERegressor(TEMPLATE, random_state=np.random.RandomState(3)).fit(*data).parameters_ for _ in range(2)]
    assert fits[0] == fits[1]
