r"""Integers packed into words of 32 bits: unpacked and scaled for the rows asked for.

.. math:: W_{ij} = s_{g j} (q_{ij} - z_{g j})

Integers lie in a stream of bits, the lowest first, along rows (GPTQ) or columns (AWQ, compressed-tensors).

Notation  q integer of b bits; s scale; z zero point; g group.
Cost      the words of the rows asked for, and float32 for these rows only.
Pitfalls  GPTQ and AWQ store (inputs, outputs), as `transposed` says. GPTQ stores z - 1 unless its format is "gptq_v2".
          The eight numbers of an AWQ word belong to columns 0, 2, 4, 6, 1, 3, 5, 7.
References  E. Frantar et al., GPTQ: accurate post-training quantization for generative pre-trained transformers, 2022,
            arXiv 2210.17323. J. Lin et al., AWQ: activation-aware weight quantization, 2023, arXiv 2306.00978.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sciml.stats.spectra.unpacking import Restored, fetch, unpack

__all__ = ["Awq", "Gptq", "PackedColumns"]

_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True, eq=False)
class Gptq(Restored):
    """Integers packed along the rows of (inputs, outputs), with scales and packed zero points for groups of inputs.

    Parameters
    ----------
    codes : object
        Stored words, (inputs * bits / 32, outputs).
    zeros : object
        Stored words, (groups, outputs * bits / 32).
    scales : object
        (groups, outputs).
    groups : object or None
        Group of each input, (inputs,); None: consecutive groups of equal size.
    bits : int
        Bits of a number.
    zero_shift : int
        What is added to a stored zero point; 1 by default.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.packed_weights import Gptq
    >>> Gptq(SimpleNamespace(shape=(2, 8)), SimpleNamespace(shape=(1, 1)), SimpleNamespace(shape=(1, 8)), None, 4).shape
    (16, 8)
    """

    codes: object
    zeros: object
    scales: object
    groups: object | None
    bits: int
    zero_shift: int = 1
    transposed = True

    @property
    def shape(self):
        """(inputs, outputs)."""
        return self.codes.shape[0] * 32 // self.bits, self.codes.shape[1]

    def decode(self, index):
        """Return rows by number as float32.

        Parameters
        ----------
        index : torch.Tensor, shape (b,)
            Row numbers.

        Returns
        -------
        torch.Tensor, shape (b, outputs)
            Dequantised.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.packed_weights import Gptq
        >>> def stored(T):
        ...     return SimpleNamespace(shape=tuple(T.shape), rows=lambda a, b: T[a:b])
        >>> words = torch.full((1, 8), 0x3A, dtype=torch.int32)
        >>> zeros, scales = torch.full((1, 1), 0x77777777, dtype=torch.int32), torch.full((1, 8), 0.5)
        >>> Gptq(stored(words), stored(zeros), stored(scales), None, 4).decode(torch.arange(2))[:, 0].tolist()
        [1.0, -2.5]
        """
        # 32 numbers fill `bits` words exactly: rows are unpacked in these units.
        unit, place = index // 32, index % 32
        units, back = torch.unique(unit, return_inverse=True)
        words = (units[:, None] * self.bits + torch.arange(self.bits)).flatten()
        packed = fetch(self.codes, words[words < self.codes.shape[0]])
        if len(packed) < len(words):
            packed = torch.cat([packed, packed.new_zeros(len(words) - len(packed), packed.shape[1])])
        packed = packed.reshape(len(units), self.bits, -1).transpose(1, 2)
        numbers = unpack(packed, self.bits, 32)[back, :, place]
        return _scaled_by_group(self, numbers, index, lambda z: unpack(z, self.bits, self.shape[1]) + self.zero_shift)


@dataclass(frozen=True, eq=False)
class Awq(Restored):
    """Integers of four bits packed along the columns of (inputs, outputs), in AWQ's order within a word.

    Parameters
    ----------
    codes : object
        Stored words, (inputs, outputs / 8).
    zeros : object
        Stored words, (groups, outputs / 8).
    scales : object
        (groups, outputs).

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.packed_weights import Awq
    >>> Awq(SimpleNamespace(shape=(16, 1)), SimpleNamespace(shape=(1, 1)), SimpleNamespace(shape=(1, 8))).shape
    (16, 8)
    """

    codes: object
    zeros: object
    scales: object
    groups = None
    transposed = True

    @property
    def shape(self):
        """(inputs, outputs)."""
        return self.codes.shape[0], self.codes.shape[1] * 8

    def decode(self, index):
        """Return rows by number as float32.

        Parameters
        ----------
        index : torch.Tensor, shape (b,)
            Row numbers.

        Returns
        -------
        torch.Tensor, shape (b, outputs)
            Dequantised.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.packed_weights import Awq
        >>> def stored(T):
        ...     return SimpleNamespace(shape=tuple(T.shape), rows=lambda a, b: T[a:b])
        >>> words, zeros = torch.tensor([[0x75316420]], dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
        >>> Awq(stored(words), stored(zeros), stored(torch.ones(1, 8))).decode(torch.arange(1)).tolist()
        [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]
        """
        return _scaled_by_group(self, _unpack_awq(fetch(self.codes, index)), index, _unpack_awq)


def _unpack_awq(words):
    numbers = unpack(words, 4, words.shape[-1] * 8)
    return numbers.unflatten(-1, (-1, 8))[..., list(_AWQ_ORDER)].flatten(-2)


def _scaled_by_group(weights, numbers, index, unpack_zeros):
    """Return scale * (number - zero), both of the input's group."""
    n_groups = weights.scales.shape[0]
    if weights.groups is not None:
        group = fetch(weights.groups, index).to(torch.long)
    else:
        group = index // -(-weights.shape[0] // n_groups)
    scale = fetch(weights.scales, group).to(torch.float32)
    return scale * (numbers - unpack_zeros(fetch(weights.zeros, group))).to(torch.float32)


@dataclass(frozen=True, eq=False)
class PackedColumns(Restored):
    """Signed integers stored with an offset and packed along the columns of (outputs, inputs): compressed-tensors.

    Parameters
    ----------
    codes : object
        Stored words, (outputs, words); each holds 32 // bits numbers.
    scales : object
        (outputs, groups of inputs), or (outputs, 1).
    zeros : object or None
        Zero points packed along rows, (outputs * bits / 32, groups); None: there are none.
    groups : object or None
        Group of each input; None: consecutive groups of equal size.
    columns : int
        Inputs.
    bits : int
        Bits of a number.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.packed_weights import PackedColumns
    >>> PackedColumns(SimpleNamespace(shape=(4, 2)), SimpleNamespace(shape=(4, 1)), None, None, 16, 4).shape
    (4, 16)
    """

    codes: object
    scales: object
    zeros: object | None
    groups: object | None
    columns: int
    bits: int

    @property
    def shape(self):
        """(outputs, inputs)."""
        return self.codes.shape[0], self.columns

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
        >>> from sciml.stats.spectra.packed_weights import PackedColumns
        >>> def stored(T):
        ...     return SimpleNamespace(shape=tuple(T.shape), rows=lambda a, b: T[a:b])
        >>> words = stored(torch.tensor([[0x0FA8]], dtype=torch.int32))
        >>> PackedColumns(words, stored(torch.ones(1, 1)), None, None, 4, 4).decode(torch.arange(1)).tolist()
        [[0.0, 2.0, 7.0, -8.0]]
        """
        numbers = self._unpack(fetch(self.codes, index), self.columns)
        scale = fetch(self.scales, index).to(torch.float32)
        if self.groups is not None:
            group = self.groups.rows(0, self.columns).cpu().to(torch.long)
        else:
            group = torch.arange(self.columns) // -(-self.columns // scale.shape[1])
        if self.zeros is None:
            return numbers.to(torch.float32) * scale[:, group]
        whole = self.zeros.rows(0, self.zeros.shape[0]).cpu()
        zero = self._unpack(whole.T, self.shape[0]).T[index]
        return (numbers - zero[:, group]).to(torch.float32) * scale[:, group]

    def _unpack(self, words, count):
        # Numbers whose bits do not divide a word leave its highest bits empty.
        per_word = 32 // self.bits
        shifts = self.bits * torch.arange(per_word, dtype=torch.int32)
        numbers = (words.to(torch.int32).unsqueeze(-1) >> shifts) & (2**self.bits - 1)
        return numbers.flatten(-2)[..., :count] - 2 ** (self.bits - 1)
