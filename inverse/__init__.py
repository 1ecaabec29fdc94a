"""Inverse problems: find the causes (a field, a source, the settings of an instrument) from indirect, noisy data.

The data seldom determine the answer, so a method of this area states what it assumes beside the data, and its result
tells how far the answer depends on that assumption. Each problem has its folder; ``bilevel`` learns what is assumed,
the hyperparameters of a regulariser or of a model, from examples whose truth is known; ``calibration`` finds the gains
of an instrument from the very data that it is to measure.
"""

if __name__ != "sciml.inverse":
    raise ImportError("import sciml.inverse, not inverse")
