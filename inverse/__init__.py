"""Inverse problems: find the causes (a field, a source, the settings of an instrument) from indirect, noisy data.

The data seldom determine the answer, so a method of this area states what it assumes beside the data, and its result
tells how far the answer depends on that assumption. Each problem has its folder, read in the order problem, method,
result, plotting. None is part of this version.
"""

if __name__ != "sciml.inverse":
    raise ImportError("import sciml.inverse, not inverse")
