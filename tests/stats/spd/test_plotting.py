"""Pictures of a classifier show the numbers of the classifier."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose

from sciml import classify_spd
from sciml.exceptions import InvalidInputError
from sciml.stats.spd.plotting import plot_confusion, plot_reliability, plot_views


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    y = np.array(["a", "a", "b", "c"] * 10)
    L = rng.normal(size=(40, 2, 6)) * np.where(y == "a", 1.0, 2.0)[:, None, None]
    return classify_spd(L @ L.transpose(0, 2, 1), y, metric=["logeuclid", "euclid"]), y


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_the_confusion_matrix_counts_trials_by_true_and_predicted_class(fitted):
    clf, y = fitted
    ax = clf.plot()
    said = clf.classes[clf.cv_proba.argmax(1)]
    assert (said != y).any()
    for text in ax.texts:
        column, row = (int(round(p)) for p in text.get_position())
        assert int(text.get_text()) == ((y == clf.classes[row]) & (said == clf.classes[column])).sum()
        # Dark cells get white numbers.
        share = ((y == clf.classes[row]) & (said == clf.classes[column])).sum() / (y == clf.classes[row]).sum()
        assert to_rgb(text.get_color()) == ((1, 1, 1) if share > 0.5 else (0, 0, 0))
    assert sum(int(text.get_text()) for text in ax.texts) == 40
    assert_allclose(ax.images[0].get_array().sum(1), 1)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert f"{clf.cv_accuracy:.3f}" in ax.get_title()


def test_views_are_filled_where_they_are_mixed(fitted):
    table = {**fitted[0].report_data["table"], "weight": [1.0, 0.0]}
    clf = dataclasses.replace(fitted[0], report_data={**fitted[0].report_data, "table": table})
    ax = plot_views(clf)
    marks = [line for line in ax.lines if line.get_marker() == "o"]
    table = clf.cv_results
    assert_allclose([mark.get_xdata()[0] for mark in marks], table["log_loss"])
    assert [mark.get_fillstyle() == "full" for mark in marks] == (table["weight"] > 0).tolist()
    lines = [line.get_xdata()[0] for line in ax.lines if line.get_marker() != "o"]
    assert_allclose(lines, [np.log(3), clf.cv_log_loss])
    assert [label.get_text() for label in ax.get_yticklabels()] == table["view"].tolist()
    assert len(plot_views(clf, n_best=1).get_yticklabels()) == 1


def test_reliability_is_the_share_of_right_labels_by_stated_probability(fitted):
    clf, y = fitted
    stated, right = clf.cv_proba.max(1), clf.classes[clf.cv_proba.argmax(1)] == y
    ax = plot_reliability(clf, n_bins=1)
    points = ax.containers[0].lines[0]
    assert_allclose(points.get_xdata(), stated.mean())
    assert_allclose(points.get_ydata(), right.mean())
    ends = ax.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert_allclose(np.diff(ends), 2 * np.sqrt((stated * (1 - stated)).sum()) / 40)
    assert len(plot_reliability(clf).containers[0].lines[0].get_xdata()) == 8
    assert len(plot_reliability(clf, n_bins=99).containers[0].lines[0].get_xdata()) == 8
    with pytest.raises(InvalidInputError, match="n_bins must be at least 1; got 0"):
        plot_reliability(clf, n_bins=0)


def test_pictures_go_where_they_are_told(fitted):
    _, axes = plt.subplots(1, 3)
    for ax, kind in zip(axes, ("confusion", "views", "reliability"), strict=True):
        assert fitted[0].plot(ax=ax, kind=kind) is ax
    assert plot_confusion(fitted[0]) is not axes[0]
    with pytest.raises(InvalidInputError, match="kind must be one of"):
        fitted[0].plot(kind="pie")
