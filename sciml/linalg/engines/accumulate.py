"""Adding up the outputs of tiles: in float64 across tiles, whatever the tiles compute in."""

import torch


class Sums:
    """The outputs of a reduction while its tiles come in.

    Parameters
    ----------
    kinds : tuple of str
        Kind of each output of the tile: "row", "col", "all", or "max" followed by "row" for a log-sum-exp.
    m, n : int
        Numbers of rows and columns.
    """

    def __init__(self, kinds, m, n):
        self.kinds, self.m, self.n = kinds, m, n
        self.parts = [None] * len(kinds)

    def add(self, outputs, i, j):
        """Add the outputs of the tile whose first row and column are `i` and `j`; what lies beyond m, n is padding."""
        if self.kinds[0] == "max":
            self._add_exponentials(*outputs, i)
            return
        for k, (kind, out) in enumerate(zip(self.kinds, outputs, strict=True)):
            if kind == "row":
                self._like(k, out, (self.m, out.shape[1]))[i : i + out.shape[0]] += out[: self.m - i]
            elif kind == "col":
                self._like(k, out, (out.shape[0], self.n))[:, j : j + out.shape[1]] += out[:, : self.n - j]
            else:
                self._like(k, out, out.shape).add_(out)

    def _like(self, k, out, shape):
        if self.parts[k] is None:
            self.parts[k] = torch.zeros(shape, dtype=_double(out), device=out.device)
        return self.parts[k]

    def _add_exponentials(self, largest, total, i):
        """Combine ``exp(largest) total`` of a tile with what is there; the larger exponent stays outside."""
        largest, total = largest[: self.m - i].to(_double(largest)), total[: self.m - i].to(_double(total))
        if self.parts[0] is None:
            shape = {"size": (self.m, 1), "dtype": largest.dtype, "device": largest.device}
            self.parts = [torch.full(fill_value=-torch.inf, **shape), torch.zeros(**shape)]
        rows = slice(i, i + largest.shape[0])
        before = self.parts[0][rows]
        new = torch.maximum(before, largest)
        base = torch.where(new.isinf(), 0.0, new)
        old_part = torch.where(before == -torch.inf, 0.0, self.parts[1][rows] * torch.exp(before - base))
        new_part = torch.where(largest == -torch.inf, 0.0, total * torch.exp(largest - base))
        self.parts[1][rows] = old_part + new_part
        self.parts[0][rows] = new

    def finish(self, dtype):
        """Return the outputs in a dtype: "row" (m, w), "col" (n, w), "all" as they are; one (m, 1) for exponentials."""
        if self.kinds[0] == "max":
            largest, total = self.parts
            return [torch.where(largest.isinf(), largest, largest + torch.log(total)).to(dtype)]
        turned = [part.T if kind == "col" else part for kind, part in zip(self.kinds, self.parts, strict=True)]
        return [part.to(dtype).contiguous() for part in turned]


def _double(tensor):
    # Apple's devices have no float64; everything else adds up in it.
    return tensor.dtype if tensor.device.type == "mps" else torch.float64
