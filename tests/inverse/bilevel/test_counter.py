"""Counts: what is a unit, and what is counted beside it."""

from sciml.inverse.bilevel.counter import Counter


def test_units_are_gradients_and_hessian_products_over_the_samples():
    count = Counter(lower=3, hvp=5, power=7, cross=1000, third=9)
    assert count.units(4) == (3 + 5 + 7 + 9) / 4
    assert Counter().units(1) == 0


def test_counts_add_up_by_name():
    count = Counter(lower=1, cross=2)
    count.add(Counter(lower=10, hvp=20))
    count.add({"power": 0.5, "cross": 1.0})
    assert count.as_dict() == {"lower": 11, "hvp": 20, "power": 0.5, "cross": 3, "third": 0}
