"""Numbers out of packed words, rows out of stored tensors, and what all dequantised weights have in common.

Notation  a word holds 8, 16 or 32 bits; numbers lie in it from the lowest bits on.
Cost      the rows asked for, in one piece where they follow each other.
Pitfalls  weights on a device come to the CPU here. Eight-bit floats cannot be indexed everywhere: their bytes are.
"""

from __future__ import annotations

import torch

__all__ = ["Restored", "fetch", "unpack"]


def unpack(words, bits, count):
    """Return the first numbers of `bits` bits along the last axis of words, the lowest bits first.

    Parameters
    ----------
    words : torch.Tensor, shape (..., w)
        Integers of 8, 16 or 32 bits.
    bits : int
        Bits of a number, at most those of a word.
    count : int
        How many numbers a row holds.

    Returns
    -------
    torch.Tensor, shape (..., count)
        int32, from 0 to 2^bits - 1.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.unpacking import unpack
    >>> unpack(torch.tensor([0x7531], dtype=torch.int32), 4, 4).tolist()
    [1, 3, 5, 7]
    """
    width = 8 * words.element_size()
    if width % bits == 0:
        shifts = torch.arange(0, width, bits, dtype=torch.int32)
        numbers = (words.to(torch.int32).unsqueeze(-1) >> shifts) & (2**bits - 1)
        return numbers.flatten(-2)[..., :count]
    # Numbers of three bits cross the border between words.
    start = torch.arange(count) * bits
    word, shift = start // width, start % width
    wide = words.to(torch.int64) & (2**width - 1)
    low = wide[..., word] >> shift
    high = wide[..., (word + 1).clamp(max=words.shape[-1] - 1)] << (width - shift)
    return ((low | high) & (2**bits - 1)).to(torch.int32)


def fetch(stored, index):
    """Read rows of a stored tensor, in one piece where they follow each other.

    Parameters
    ----------
    stored : object
        With `rows` and `take`.
    index : torch.Tensor, shape (b,)
        Row numbers.

    Returns
    -------
    torch.Tensor, shape (b, ...)
        The rows as stored, on the CPU: words are taken apart there.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.unpacking import fetch
    >>> T = torch.arange(4.0)
    >>> fetch(SimpleNamespace(rows=lambda a, b: T[a:b]), torch.tensor([1, 2])).tolist()
    [1.0, 2.0]
    """
    if len(index) == 0:
        return stored.rows(0, 0).cpu()
    unique, back = torch.unique(index, return_inverse=True)
    first, last = int(unique[0]), int(unique[-1]) + 1
    block = (stored.rows(first, last) if len(unique) == last - first else stored.take(unique.tolist())).cpu()
    if len(unique) == len(index) and bool((unique == index).all()):
        return block
    # Floats of eight bits cannot be indexed everywhere, their bytes can.
    return block.view(torch.uint8)[back].view(block.dtype) if block.element_size() == 1 else block[back]


class Restored:
    """What dequantised weights have in common: they look like a stored tensor of float32.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.unpacking import Restored
    >>> class Ones(Restored):
    ...     shape = (3, 2)
    ...
    ...     def decode(self, index):
    ...         return torch.ones(len(index), 2)
    >>> Ones().rows(1, 3).shape, Ones().take([0]).shape
    (torch.Size([2, 2]), torch.Size([1, 2]))
    """

    dtype = torch.float32
    transposed = False

    def rows(self, start, stop):
        """Return rows [start, stop) as float32.

        Parameters
        ----------
        start, stop : int
            Ends of the range.

        Returns
        -------
        torch.Tensor, shape (stop - start, ...)
            Dequantised.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.unpacking import Restored
        >>> class Counted(Restored):
        ...     def decode(self, index):
        ...         return index[:, None].float()
        >>> Counted().rows(1, 3).tolist()
        [[1.0], [2.0]]
        """
        return self._decoded(torch.arange(start, max(start, stop)))

    def take(self, index):
        """Return single rows as float32.

        Parameters
        ----------
        index : sequence of int
            Row numbers.

        Returns
        -------
        torch.Tensor, shape (len(index), ...)
            Dequantised.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.unpacking import Restored
        >>> class Counted(Restored):
        ...     def decode(self, index):
        ...         return index[:, None].float()
        >>> Counted().take([4, 0]).tolist()
        [[4.0], [0.0]]
        """
        return self._decoded(torch.as_tensor(list(index), dtype=torch.long))

    def _decoded(self, index):
        return self.decode(index) if len(index) else torch.empty(0, *self.shape[1:])
