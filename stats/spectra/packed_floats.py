r"""Floating point codes of four bits: looked up in a table and scaled for the rows asked for.

.. math:: W_{ij} = c_{q_{ij}} a_{\lfloor (i n + j) / B \rfloor}

Notation  q code; c table of values; a scale of each block of B entries; n columns.
Cost      the bytes of the rows asked for, and float32 for these rows only.
Pitfalls  bitsandbytes has the first of two codes in the high half of a byte, MXFP4 and NVFP4 in the low half.
References  T. Dettmers et al., QLoRA: efficient finetuning of quantized LLMs, 2023, arXiv 2305.14314. B. Rouhani et
            al., Microscaling data formats for deep learning, 2023, arXiv 2310.10537.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from sciml.stats.spectra.unpacking import Restored, fetch, unpack

__all__ = ["FLOAT4", "Blockwise4", "Float4"]

FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True, eq=False)
class Blockwise4(Restored):
    """Codes of four bits in one long row of bytes, the first in the high half: bitsandbytes.

    Parameters
    ----------
    codes : object
        Stored bytes, (entries / 2, 1).
    absmax : object
        Largest modulus of each block, (blocks,), or its codes of eight bits.
    table : torch.Tensor, shape (16,)
        Values of the codes.
    shape : tuple of int
        (outputs, inputs).
    block : int
        Entries of a block.
    nested : tuple or None
        Table of 256 values, stored maxima of the maxima, entries of a block of them, and offset; None: not nested.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.packed_floats import Blockwise4
    >>> def stored(T):
    ...     return SimpleNamespace(shape=tuple(T.shape), rows=lambda a, b: T[a:b])
    >>> codes, absmax = stored(torch.tensor([[0x12], [0x34]], dtype=torch.uint8)), stored(torch.tensor([10.0]))
    >>> Blockwise4(codes, absmax, torch.arange(16.0), (2, 2), 64, None).decode(torch.arange(2)).tolist()
    [[10.0, 20.0], [30.0, 40.0]]
    """

    codes: object
    absmax: object
    table: object
    shape: tuple
    block: int
    nested: tuple | None

    def decode(self, index):
        """Return rows by number as float32.

        Parameters
        ----------
        index : torch.Tensor, shape (b,)
            Row numbers.

        Returns
        -------
        torch.Tensor, shape (b, inputs)
            Dequantised.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.packed_floats import Blockwise4
        >>> def stored(T):
        ...     return SimpleNamespace(shape=tuple(T.shape), rows=lambda a, b: T[a:b])
        >>> codes, absmax = stored(torch.tensor([[0x12]], dtype=torch.uint8)), stored(torch.tensor([1.0]))
        >>> Blockwise4(codes, absmax, torch.arange(16.0), (1, 2), 64, None).decode(torch.tensor([0])).tolist()
        [[1.0, 2.0]]
        """
        jumps = torch.nonzero(index[1:] != index[:-1] + 1).flatten() + 1
        ends = [0, *jumps.tolist(), len(index)]
        runs = [index[a:b] for a, b in itertools.pairwise(ends) if a < b]
        parts = [self._run(int(run[0]), int(run[-1]) + 1) for run in runs]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _run(self, start, stop):
        """Return consecutive rows: one run of bytes, of which the first and last may be shared with other rows."""
        first, last = start * self.shape[1], stop * self.shape[1]
        byte = self.codes.rows(first // 2, (last + 1) // 2).cpu().flatten()
        code = torch.stack([byte >> 4, byte & 15], dim=1).flatten()[first % 2 : first % 2 + last - first]
        values = self.table.to(torch.float32)[code.to(torch.int32)]
        blocks = torch.arange(first // self.block, -(-last // self.block))
        largest = self._largest(blocks).repeat_interleave(self.block)
        offset = first - first // self.block * self.block
        return values.mul_(largest[offset : offset + last - first]).reshape(stop - start, self.shape[1])

    def _largest(self, blocks):
        largest = fetch(self.absmax, blocks)
        if self.nested is not None:
            table, outer, size, offset = self.nested
            largest = table.to(torch.float32)[largest.to(torch.int32)] * fetch(outer, blocks // size) + offset
        return largest.to(torch.float32)


@dataclass(frozen=True, eq=False)
class Float4(Restored):
    """Floating point numbers of four bits, two a byte with the first in the low half, scaled in blocks of columns.

    Parameters
    ----------
    codes : object
        Stored bytes, (rows, columns / 2) or with the bytes of a block as a last axis; further leading axes are kept.
    scales : object
        (rows, blocks): powers of two as bytes with an offset of 127 (MXFP4), or numbers (NVFP4).
    factor : float
        Scale of all; 1 by default.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.packed_floats import Float4
    >>> Float4(SimpleNamespace(shape=(2, 6, 4, 16)), SimpleNamespace(shape=(2, 6, 4))).shape
    (2, 6, 128)
    """

    codes: object
    scales: object
    factor: float = 1.0

    @property
    def shape(self):
        """(..., rows, columns)."""
        blocked = len(self.codes.shape) > len(self.scales.shape)
        *lead, last = self.codes.shape
        return (*lead[:-1], lead[-1] * last * 2) if blocked else (*lead, last * 2)

    def decode(self, index):
        """Return rows by number as float32.

        Parameters
        ----------
        index : torch.Tensor, shape (b,)
            Numbers along the first axis.

        Returns
        -------
        torch.Tensor, shape (b, ..., columns)
            Dequantised.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.packed_floats import Float4
        >>> T = torch.tensor([[0x9F]], dtype=torch.uint8)
        >>> codes = SimpleNamespace(shape=(1, 1), rows=lambda a, b: T[a:b])
        >>> scale = torch.full((1, 1), 128, dtype=torch.uint8)
        >>> scales = SimpleNamespace(shape=(1, 1), dtype=scale.dtype, rows=lambda a, b: scale[a:b])
        >>> Float4(codes, scales).decode(torch.tensor([0])).tolist()
        [[-12.0, -1.0]]
        """
        scale = fetch(self.scales, index)
        scale = torch.exp2(scale.to(torch.float32) - 127) if scale.dtype == torch.uint8 else scale.to(torch.float32)
        codes = fetch(self.codes, index)
        numbers = unpack(codes, 4, 2 * codes.shape[-1]).to(torch.long)
        values = torch.tensor(FLOAT4, dtype=torch.float32)[numbers].reshape(*scale.shape, -1)
        return (values * (scale * self.factor).unsqueeze(-1)).flatten(-2)
