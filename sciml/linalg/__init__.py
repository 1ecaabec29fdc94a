"""Linear algebra shared by all areas: the boundary between NumPy, xarray and torch, and models solved in closed form.

The mathematics is written once, in torch; a public function takes its arrays through :func:`enter` and gives its
answers back through the function ``leave`` that ``enter`` returns, in the kind, dtype and device of the user's data.
"""

from sciml.linalg.arrays import enter as enter
