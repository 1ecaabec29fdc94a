"""TangentClassifier and its companions in the hands of users of scikit-learn, pyRiemann and MOABB."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from pyriemann.classification import MDM as PeerMDM
from pyriemann.estimation import Covariances
from pyriemann.tangentspace import TangentSpace
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks as checks
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from sciml import (
    MDM,
    SPDKNN,
    AugmentedCovariance,
    Covariance,
    FilterBankCovariance,
    PrototypeCovariance,
    SPDRecenter,
    SPDTangentSpace,
    TangentClassifier,
    TimeBasisCovariance,
    classify_spd,
)
from sciml.exceptions import InvalidInputError

QUICK = {"metric": "logeuclid", "cv": 2}


def powers(n_per_class=12, seed=0):
    """Trials whose classes differ in the power of one channel each."""
    rng = np.random.default_rng(seed)
    y = np.tile([0, 1], n_per_class)
    X = rng.normal(size=(len(y), 3, 60))
    X[np.arange(len(y)), y] *= 3
    return X, y


X, Y = powers()
LABELS = np.array(["right", "left"])[Y]
GROUPS = np.arange(24) // 6


# ---------------------------------------------------------------- checks of scikit-learn


@pytest.mark.parametrize(
    "check",
    [
        checks.check_estimator_cloneable,
        checks.check_estimator_repr,
        checks.check_estimator_tags_renamed,
        checks.check_valid_tag_types,
        checks.check_no_attributes_set_in_init,
        checks.check_parameters_default_constructible,
        checks.check_get_params_invariance,
        checks.check_set_params,
        checks.check_mixin_order,
    ],
    ids=lambda check: check.__name__,
)
def test_checks_of_scikit_learn_that_need_no_data(check):
    assert TangentClassifier().__sklearn_tags__().input_tags.three_d_array
    check("TangentClassifier", TangentClassifier())


class Tables(TangentClassifier):
    """TangentClassifier of tables: a row is the logarithm of a diagonal matrix, so that all other checks can be made.

    scikit-learn draws tables only; of an estimator that asks for three axes it checks nothing but that it can be
    cloned.
    """

    def _matrices(self, table, **options):
        # What asks for tables is checked as scikit-learn does it, since here only the columns are this class's.
        table = validate_data(self, table, dtype="numeric", ensure_min_samples=1, **options).astype(float)
        # Features of the checks are some units wide; thrice five decades keep every matrix regular.
        return np.exp(np.clip(table, -6, 6))[:, :, None] * np.eye(table.shape[1])

    def fit(self, X, y):
        if y is None:
            raise ValueError("Tables requires y to be passed, but the target y is None")
        matrices = self._matrices(X)
        y = column_or_1d(y, warn=True)
        if y.dtype.kind == "f":
            sklearn.utils.assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        return super().fit(matrices, y)

    def predict(self, X, domains=None):
        check_is_fitted(self)
        return super().predict(self._matrices(X, reset=False))

    def predict_proba(self, X, domains=None):
        check_is_fitted(self)
        return super().predict_proba(self._matrices(X, reset=False))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = False
        tags.input_tags.two_d_array = True
        return tags


# Left out: what scikit-learn skips for want of a package, sparse tables, which no matrix is, and repetitions on files.
TABLE_CHECKS = [
    check
    for _, check in checks.estimator_checks_generator(Tables(metric="logeuclid", cv=2), mark=None)
    if not any(word in str(check) for word in ("sparse", "array_api", "cloneable", "readonly_memmap"))
]


@pytest.mark.parametrize("check", TABLE_CHECKS, ids=lambda check: getattr(check, "func", check).__name__)
def test_checks_of_scikit_learn_on_tables(check):
    assert callable(check)
    check(Tables(metric="logeuclid", cv=2))


# ---------------------------------------------------------------- pipelines


@pytest.mark.parametrize(
    "steps",
    [
        (TangentClassifier(**QUICK),),
        (Covariances("oas"), TangentClassifier(**QUICK)),
        (Covariances("scm"), SPDTangentSpace(), LogisticRegression()),
        (Covariances("lwf"), MDM(metric="riemann")),
        (TimeBasisCovariance(), SPDTangentSpace(metric="riemann"), StandardScaler(), LogisticRegression()),
        (TimeBasisCovariance(n_basis=2), MDM(metric="wasserstein")),
        (AugmentedCovariance(order=2, lag=3), PeerMDM()),
        (Covariance(), TangentSpace(), LogisticRegression()),
        (Covariance(), SPDRecenter(), SPDKNN()),
        (PrototypeCovariance(), TangentClassifier(metric="bw", cv=2)),
        (FilterBankCovariance(bands=((0.05, 0.2), (0.2, 0.45))), SPDTangentSpace(), LogisticRegression()),
    ],
    ids=lambda steps: "-".join(type(step).__name__ for step in steps),
)
def test_pipelines_are_judged_by_groups_and_cloned(steps):
    model = make_pipeline(*(clone(step) for step in steps))
    assert cross_val_score(model, X, LABELS, groups=GROUPS, cv=LeaveOneGroupOut()).mean() >= 0.9
    assert not hasattr(model[-1], "classes_")
    assert clone(model).fit(X, LABELS).predict(X[:1]).tolist() == ["right"]


def test_pipelines_give_tables_of_pandas_where_there_are_columns():
    model = make_pipeline(Covariance(), SPDTangentSpace(), LogisticRegression())
    model.set_output(transform="pandas").fit(X, LABELS)
    assert isinstance(model[:2].transform(X), pd.DataFrame)
    nearest = make_pipeline(Covariance(), MDM()).set_output(transform="pandas").fit(X, LABELS)
    assert_array_equal(nearest.predict(X), make_pipeline(Covariance(), MDM()).fit(X, LABELS).predict(X))
    assert isinstance(nearest.transform(X), pd.DataFrame)


def test_grids_choose_among_geometries():
    grid = {"metric": ["riemann", "wasserstein"], "classifier": ["tangent", "mdm"]}
    found = GridSearchCV(TangentClassifier(cv=2), grid, cv=LeaveOneGroupOut(), n_jobs=1)
    found.fit(X, LABELS, groups=np.arange(24) // 12)
    assert found.best_score_ >= 0.9
    assert found.best_estimator_.get_params()["metric"] == found.best_params_["metric"]
    model = make_pipeline(Covariance(), MDM())
    grid = {"mdm__metric": ["riemann", "wasserstein"], "covariance__estimator": ["oas", "lw"]}
    assert GridSearchCV(model, grid, cv=2, scoring="neg_log_loss").fit(X, LABELS).best_score_ > -np.log(2)


@pytest.mark.slow
def test_two_processes_agree_with_one():
    one, two = (cross_val_score(TangentClassifier(**QUICK), X, LABELS, cv=2, n_jobs=jobs) for jobs in (1, 2))
    assert_array_equal(one, two)


@pytest.mark.parametrize("scoring", ["balanced_accuracy", "roc_auc", "neg_log_loss", "f1_macro"])
def test_scores_of_scikit_learn(scoring):
    score = cross_val_score(TangentClassifier(**QUICK), X, Y, cv=2, scoring=scoring).mean()
    assert score > (-0.5 if scoring == "neg_log_loss" else 0.9)


def test_probabilities_out_of_fold_and_decisions():
    P = cross_val_predict(TangentClassifier(**QUICK), X, LABELS, cv=3, method="predict_proba")
    assert_allclose(P.sum(1), 1)
    model = TangentClassifier(**QUICK).fit(X, LABELS)
    P = model.predict_proba(X)
    assert_allclose(model.decision_function(X), np.log(P[:, 1] / P[:, 0]), rtol=1e-8)
    three = np.arange(24) % 3
    more = TangentClassifier(**QUICK).fit(X, three)
    assert_allclose(np.exp(more.decision_function(X)), more.predict_proba(X))
    assert_array_equal(more.decision_function(X).argmax(1), more.predict(X))


def test_votes_stacks_and_calibrations_take_it_in():
    named = [("tangent", TangentClassifier(**QUICK)), ("mean", make_pipeline(Covariance(), MDM()))]
    for model in (
        VotingClassifier(named, voting="soft"),
        StackingClassifier(named, cv=2),
        CalibratedClassifierCV(named[0][1], cv=2),
    ):
        assert model.fit(X, LABELS).score(X, LABELS) >= 0.9


# ---------------------------------------------------------------- the estimator by itself


def test_parameters_reach_the_front_door_and_stay_as_they_were():
    options = {"descriptor": ["mean", "covariance"], "metric": ["bw"], "classifier": "mdm", "theta": 0.5, "cv": 3}
    options |= {"calibrate": "none", "random_state": 1}
    model = TangentClassifier(**options)
    assert model.fit(X, LABELS) is model
    assert model.get_params() == options
    assert model.n_features_in_ == 3
    want = classify_spd(X, LABELS, **options)
    assert_array_equal(model.predict_proba(X), want.predict_proba(X))
    assert model.result_.settings == want.settings


def test_groups_and_domains_reach_the_front_door():
    groups = np.arange(24) % 3
    model = TangentClassifier(**QUICK).fit(X, LABELS, groups=groups)
    assert "for new groups" in model.result_.report()
    model = TangentClassifier(**QUICK).fit(X, LABELS, domains=GROUPS)
    assert model.result_.domains == [0, 1, 2, 3]
    assert model.score(X, LABELS, domains=GROUPS) == (model.predict(X, domains=GROUPS) == LABELS).mean()
    with pytest.raises(InvalidInputError, match="domains must name the domain"):
        model.score(X, LABELS)


def test_domains_travel_through_a_cross_validation():
    gains = np.array([1.0, 30.0])[np.arange(24) // 2 % 2]
    with sklearn.config_context(enable_metadata_routing=True):
        model = TangentClassifier(**QUICK).set_fit_request(domains=True, groups=False)
        model = model.set_score_request(domains=True)
        scores = cross_val_score(model, gains[:, None, None] * X, LABELS, params={"domains": gains}, cv=2)
    assert scores.mean() >= 0.9


def test_weights_count_in_scores():
    model = TangentClassifier(**QUICK).fit(X, LABELS)
    wrong = LABELS.copy()
    wrong[:2] = wrong[:2][::-1]
    weights = np.r_[0.0, 0.0, np.ones(22)]
    assert model.score(X, wrong) == pytest.approx(22 / 24)
    assert model.score(X, wrong, sample_weight=weights) == 1.0


def test_pickles_predict_the_same():
    model = TangentClassifier(**QUICK).fit(X, LABELS)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))


def test_series_of_unequal_lengths_and_matrices():
    series = [x[:, : 40 + i % 3] for i, x in enumerate(X)]
    assert TangentClassifier(**QUICK).fit(series, LABELS).score(series, LABELS) >= 0.9
    C = X @ X.transpose(0, 2, 1)
    assert TangentClassifier(**QUICK).fit(C, LABELS).score(C, LABELS) >= 0.9


def test_what_is_wrong_is_named():
    with pytest.raises(sklearn.exceptions.NotFittedError):
        TangentClassifier().predict(X)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        TangentClassifier().decision_function(X)
    model = TangentClassifier(**QUICK).fit(X, LABELS)
    with pytest.raises(InvalidInputError, match="3 channels of training; got 2"):
        model.predict(X[:, :2])
    with pytest.raises(InvalidInputError, match=r"One channel is X\[:, None, :\]"):
        TangentClassifier().fit(X[:, 0], LABELS)
    with pytest.raises(InvalidInputError, match="one class only, 'a'"):
        TangentClassifier().fit(X, ["a"] * 24)
