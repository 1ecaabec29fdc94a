"""The learned elastic net keeps scikit-learn's contract; what it learns is tested with the lasso."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from sciml.inverse.bilevel.sparse_estimator import BilevelElasticNet


@parametrize_with_checks([BilevelElasticNet(cv=3)])
def test_scikit_learn_contract(estimator, check):
    assert check(estimator) is None  # it raises what it finds
