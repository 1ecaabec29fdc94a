"""
Ten people, one watch: statistics of a person's own
===================================================
A classifier of exercises that was trained on nine people meets a tenth, who wears the watch higher, turns the arm
otherwise and is slower. Much of that moves all covariances of a person together, and what tells exercises apart is
left. Whitening everybody by the mean of their own matrices takes the common move away, and needs no labels of the new
person.
"""

# %%
# Windows
# -------
# Accelerometer and gyroscope of a watch during seven shoulder exercises of ten people; the data come inside the package
# seglearn (``pip install --no-deps seglearn``). Without it, simulated motion stands in. A window becomes one matrix, of
# the six channels at three times, 0.2 s apart, and their means.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sciml.datasets import simulated_trials, watch_windows
from sciml.linalg.spd import affine_invariant_distance, affine_invariant_mean
from sciml.stats.spd import Descriptor, SPDRecenter, SPDTangentSpace

try:
    watch = watch_windows()
except ImportError as error:
    print(error)
    watch = simulated_trials(1000, kind="motion", n_classes=7, n_times=400, n_domains=10, separation=0.3, shift=0.5)
X, y, person = watch.X, watch.y, watch.groups
people = np.unique(person)
descriptor = Descriptor(order=3, lag=10, n_basis=1, shrink=1e-2)
C = descriptor.matrices(X, descriptor.fit(X))  # learns one number, the scale of all: no label, no person
centred = SPDRecenter().fit_transform(C, domains=person)
print(C.shape)

# %%
# How far people are from one another
# -----------------------------------
# The distance of a person's mean from that of all windows, in units of the spread of the person's windows.


def apart(C):
    """Return the distance of each person's mean from that of all, over the spread of the person's windows."""
    found, everybody = [], affine_invariant_mean(C[::4]).mean
    for one in people:
        mine = affine_invariant_mean(C[person == one]).mean
        spread = np.sqrt(np.mean(affine_invariant_distance(C[person == one], mine) ** 2))
        found.append(affine_invariant_distance(mine, everybody) / spread)
    return found


before, after = apart(C), apart(centred)
ax = plt.subplots(figsize=(6, 3), layout="constrained")[1]
ax.plot(people, before, "v", label="as they are")
ax.plot(people, after, "o", label="whitened by person")
ax.set(xlabel="person", ylabel="distance to all / own spread", xticks=people, ylim=(0, None))
ax.legend()
plt.show()

# %%
# A tenth person
# --------------
# Each person is left out once. Nothing is chosen: log-Euclidean tangent space, standardised, logistic regression.


def left_out(C):
    """Return the share of right answers on each person when trained on the others."""
    shares = []
    for one in people:
        inside = person != one
        model = make_pipeline(SPDTangentSpace("logeuclid"), StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        shares.append(model.fit(C[inside], y[inside]).score(C[~inside], y[~inside]))
    return np.array(shares)


plain, recentred = left_out(C), left_out(centred)
print(f"mean of ten: {plain.mean():.3f} as they are, {recentred.mean():.3f} whitened by person")
ax = plt.subplots(figsize=(6, 3), layout="constrained")[1]
ax.vlines(people, plain, recentred, color="0.7")
ax.plot(people, plain, "v", label=f"as they are, {100 * plain.mean():.1f} %")
ax.plot(people, recentred, "o", label=f"whitened by person, {100 * recentred.mean():.1f} %")
ax.set(xlabel="person left out", ylabel="right answers", xticks=people, ylim=(None, 1.02))
ax.legend()
plt.show()

# %%
# What to remember
# ----------------
# People are off the common mean by some tenths of what windows of one person differ by. A mean of one's own windows
# costs no label, and on average it helps; not everybody, since it also takes away what exercises a person did more of.
assert np.median(after) < 0.5 * np.median(before)
assert recentred.mean() > plain.mean() + 0.01
