"""Transformers: the habits of scikit-learn, pipelines, searches, names, and no look at test labels."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.descriptor_estimator import (
    AugmentedCovariance,
    Covariance,
    FilterBankCovariance,
    PrototypeCovariance,
    TimeBasisCovariance,
)

ALL = [
    Covariance(),
    Covariance("lwf", scale="rms"),
    AugmentedCovariance(3, 2, n_basis=1),
    AugmentedCovariance(choose="bic", orders=(1, 2, 3), lags=(1, 2)),
    AugmentedCovariance(choose="screen", orders=(1, 2, 3), lags=(1, 2)),
    TimeBasisCovariance(),
    PrototypeCovariance(xdawn=1),
    FilterBankCovariance(((0.1, 0.2), (0.2, 0.4))),
    FilterBankCovariance(layout="stack"),
]


class Upper(TransformerMixin, BaseEstimator):
    """A step as other packages have it: logarithms of matrices as vectors."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        w, V = np.linalg.eigh(X)
        logs = V * np.log(w)[..., None, :] @ V.swapaxes(-1, -2)
        return logs[..., *np.triu_indices(X.shape[-1])].reshape(len(X), -1)

    def set_output(self, *, transform=None):
        return self


@pytest.fixture
def x(rng):
    return rng.normal(size=(24, 3, 80)).cumsum(axis=2)


Y = np.array(["left", "right"])[np.arange(24) % 2]


@pytest.mark.parametrize("model", ALL, ids=lambda m: type(m).__name__)
class TestEveryTransformer:
    def test_parameters_are_kept_and_cloned(self, model):
        twin = clone(model)
        assert repr(twin) == repr(model)
        assert twin.get_params() == model.get_params()
        assert not [name for name in vars(twin) if name.endswith("_")]

    def test_fit_returns_self_and_changes_no_parameter(self, model, x):
        model = clone(model)
        before = model.get_params()
        assert model.fit(x, Y) is model
        assert model.get_params() == before

    def test_fit_transform_is_fit_and_transform(self, model, x):
        assert_array_equal(clone(model).fit_transform(x, Y), clone(model).fit(x, Y).transform(x))

    def test_a_list_is_an_array(self, model, x):
        assert_array_equal(clone(model).fit(list(x), Y).transform(list(x)), clone(model).fit_transform(x, Y))

    def test_rows_are_named(self, model, x):
        model = clone(model).fit(x, Y)
        M = model.transform(x)
        names = model.get_feature_names_out(["Fz", "Cz", "Pz"])
        if model.get_params().get("layout") != "stack":
            assert len(names) == M.shape[-1]
        assert len(set(names)) == len(names)
        assert any("Cz" in name for name in names)
        with pytest.raises(InvalidInputError, match="3 channels; got 2 names"):
            model.get_feature_names_out(["a", "b"])

    def test_must_be_fitted(self, model, x):
        with pytest.raises(NotFittedError):
            clone(model).transform(x)
        with pytest.raises(NotFittedError):
            clone(model).get_feature_names_out()

    def test_works_in_a_pipeline(self, model, x):
        pipeline = make_pipeline(clone(model), Upper(), LogisticRegression(max_iter=5000, C=1e-3))
        pipeline[:-1].set_output(transform="default")
        assert np.isfinite(cross_val_score(pipeline, x, Y, cv=3, error_score="raise")).all()

    def test_wrong_channels_are_told(self, model, x):
        with pytest.raises(InvalidInputError, match="3 channels of the training trials; got 2"):
            clone(model).fit(x, Y).transform(x[:, :2])

    def test_says_what_it_takes(self, model):
        tags = model.__sklearn_tags__()
        assert tags.input_tags.three_d_array
        assert not tags.input_tags.two_d_array
        assert tags.target_tags.required == isinstance(model, PrototypeCovariance)


def test_covariances_are_in_the_units_of_the_data(x):
    assert_allclose(Covariance("cov", shrink=0).fit_transform(x)[3], np.cov(x[3]), rtol=1e-12)
    z = np.concatenate([x[:, :, :-4], x[:, :, 4:]], axis=1)
    expected = np.stack([np.cov(t, bias=True) for t in z])
    assert_allclose(AugmentedCovariance(2, 4, shrink=0).fit_transform(x), expected, rtol=1e-9, atol=1e-9)


def test_polynomials_bring_a_scale_of_their_own(x):
    for make in (lambda: TimeBasisCovariance(2), lambda: AugmentedCovariance(2, 3, n_basis=1)):
        assert_array_equal(make().fit_transform(2.0**-20 * x), make().fit_transform(x))


def test_a_search_over_orders_and_lags(x):
    pipeline = make_pipeline(AugmentedCovariance(), Upper(), LogisticRegression(max_iter=5000, C=1e-3))
    search = GridSearchCV(pipeline, {"augmentedcovariance__order": [1, 2], "augmentedcovariance__lag": [1, 3]}, cv=2)
    search.fit(x, Y)
    assert len(search.cv_results_["params"]) == 4


def test_what_was_chosen_is_told(x):
    model = AugmentedCovariance(choose="screen", orders=(2, 3), lags=(2, 5)).fit(x, Y)
    assert model.order_ in (2, 3)
    assert model.lag_ in (2, 5)
    assert model.choice_.table[0][1:] == (model.order_, model.lag_)
    assert model.descriptor_.order == model.order_
    assert AugmentedCovariance(3, 5).fit(x).order_ == 3
    assert AugmentedCovariance(3, 5).fit(x).choice_ is None


def test_the_screen_takes_groups(x):
    model = AugmentedCovariance(choose="screen", orders=(1, 2), lags=(1,))
    scores = [model.fit(x, Y, groups=groups).choice_.table[0][0] for groups in (None, np.arange(24) // 4)]
    assert scores[0] != scores[1]


def test_labels_without_meaning_are_not_learned_from(rng):
    """Prototypes know the training labels: inside cross-validation noise must stay at chance."""
    scores = []
    for _ in range(5):
        x, y = rng.normal(size=(40, 2, 30)), rng.permutation(np.arange(40) % 2)
        pipeline = make_pipeline(PrototypeCovariance(), Upper(), LogisticRegression(max_iter=5000))
        scores += cross_val_score(pipeline, x, y, cv=5).tolist()
    assert abs(np.mean(scores) - 0.5) < 0.14  # four standard errors of 200 trials


def test_prototypes_are_those_of_the_training_trials(x):
    model = PrototypeCovariance().fit(x[:12], Y[:12])
    expected = np.concatenate([x[:12][Y[:12] == c].mean(axis=0) for c in ("left", "right")])
    assert_allclose(model.prototypes_, expected, atol=1e-12)
    M = model.transform(x[12:])
    assert M.shape == (12, 9, 9)


def test_stacks_of_bands(x):
    assert FilterBankCovariance(layout="stack").fit_transform(x).shape == (24, 8, 3, 3)
    assert FilterBankCovariance([(8, 13), (13, 30)], fs=100).fit_transform(x).shape == (24, 6, 6)
    with pytest.raises(InvalidInputError, match="Use Covariance"):
        FilterBankCovariance(None).fit(x)


def test_a_wrong_word_is_told(x):
    with pytest.raises(InvalidInputError, match="choose must be"):
        AugmentedCovariance(choose="grid").fit(x, Y)
    with pytest.raises(InvalidInputError, match="y must be given"):
        PrototypeCovariance().fit(x)
