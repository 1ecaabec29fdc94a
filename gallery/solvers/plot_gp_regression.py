"""
A band that is honest about what it has not seen
================================================
Diabetes progresses faster in heavier patients with higher blood pressure, but how much can these measurements tell of
one patient? A regression line answers with one number. A Gaussian process answers with a function and a band: its
kernel and the noise are learned from 221 patients by maximising the evidence, no validation set needed. We then ask
how many of 221 other patients fall into the band that was promised to hold 95 percent of them.
"""

# %%
# The patients
# ------------
# 442 patients of the data set that ships with scikit-learn: body-mass index, blood pressure and a blood value against
# the progression of the disease in a year. Half of them are put away.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes

from sciml import fit_gp
from sciml.kernels import Matern52

table = load_diabetes(scaled=False)
columns = [table.feature_names.index(name) for name in ("bmi", "bp", "s5")]
X, y = table.data[:, columns], table.target
order = np.random.default_rng(0).permutation(len(y))
seen, unseen = order[:221], order[221:]

# %%
# One measurement
# ---------------
# The dark band is the uncertainty of the function, the light one that of a new patient. The dark one widens where
# there are few patients; the light one hardly can, since most of it is noise.
line = fit_gp(X[seen, :1], y[seen], Matern52(5.0), random_state=0)
ax = line.plot()
ax.set(xlabel="body-mass index (kg / m^2)", ylabel="progression in a year")
plt.show()

# %%
# Three measurements
# ------------------
# One length for each: a long one means that the function hardly depends on that measurement. The evidence says that
# the other two are worth having.
full = fit_gp(X[seen], y[seen], Matern52([5.0, 10.0, 1.0]), random_state=0)
print(line)
print(full)

# %%
# The promise kept
# ----------------
# Predictions for the patients put away, sorted, with the band of 1.96 standard deviations of an observation.
answer = full.predict(X[unseen])
inside = np.abs(y[unseen] - answer.mean) < 1.96 * answer.observation_std
rank = np.argsort(answer.mean)
fig, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
low, high = (answer.mean[rank] + sign * 1.96 * answer.observation_std[rank] for sign in (-1, 1))
ax.fill_between(np.arange(len(rank)), low, high, color="0.85", linewidth=0, label="95 % band")
ax.plot(answer.mean[rank], color="black", linewidth=1, label="mean")
for kept, marker in ((True, "."), (False, "x")):
    at = np.flatnonzero(inside[rank] == kept)
    ax.plot(at, y[unseen][rank][at], marker, color="0.4" if kept else "black", label="inside" if kept else "outside")
ax.set(xlabel="patients put away, by prediction", ylabel="progression in a year")
ax.legend(ncols=4, fontsize="small")
plt.show()

# %%
# What to remember
# ----------------
# The band keeps its promise on patients that it has not seen, and the evidence prefers the model that predicts better.
# 221 patients leave a standard error of 1.5 percent.
error = {
    "one": np.std(y[unseen] - line.mean(X[unseen, :1])),
    "three": np.std(y[unseen] - answer.mean),
}
print(f"inside: {inside.mean():.1%}; errors: one {error['one']:.1f}, three {error['three']:.1f}")
assert 0.90 < inside.mean() < 0.99
assert full.log_evidence > line.log_evidence
assert error["three"] < error["one"] < np.std(y[unseen])
