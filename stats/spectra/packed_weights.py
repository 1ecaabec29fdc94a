r"""Weights packed into words of four bits or so: unpacked and scaled for the rows asked for.

.. math:: W_{ij} = s_{g j} (q_{ij} - z_{g j}), \qquad W_{ij} = c_{q_{ij}} a_{\lfloor (in + j) / B \rfloor}

Integers lie in a stream of bits, the lowest first, along rows (GPTQ) or columns (AWQ, compressed-tensors); the second
formula is a table of values c with the largest modulus a of each block of B entries (bitsandbytes, MXFP4, NVFP4).

Notation  q integer of b bits; s scale; z zero point; g group; c table of values; a block maximum; n columns.
Cost      the words of the rows asked for, and float32 for these rows only.
Pitfalls  GPTQ and AWQ store (inputs, outputs), as `transposed` says. GPTQ stores z - 1 unless its format is "gptq_v2".
          The eight numbers of an AWQ word belong to columns 0, 2, 4, 6, 1, 3, 5, 7.
References  E. Frantar et al., GPTQ: accurate post-training quantization for generative pre-trained transformers, 2022,
            arXiv 2210.17323. J. Lin et al., AWQ: activation-aware weight quantization, 2023, arXiv 2306.00978. T.
            Dettmers et al., QLoRA: efficient finetuning of quantized LLMs, 2023, arXiv 2305.14314. B. Rouhani et al.,
            Microscaling data formats for deep learning, 2023, arXiv 2310.10537.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["FLOAT4", "Awq", "Blockwise4", "Float4", "Gptq", "PackedColumns", "Restored", "fetch", "unpack"]

FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


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
    >>> from sciml.stats.spectra.packed_weights import unpack
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
        The rows as stored.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.packed_weights import fetch
    >>> T = torch.arange(4.0)
    >>> fetch(SimpleNamespace(rows=lambda a, b: T[a:b]), torch.tensor([1, 2])).tolist()
    [1.0, 2.0]
    """
    if len(index) == 0:
        return stored.rows(0, 0)
    unique, back = torch.unique(index, return_inverse=True)
    first, last = int(unique[0]), int(unique[-1]) + 1
    block = stored.rows(first, last) if len(unique) == last - first else stored.take(unique.tolist())
    if len(unique) == len(index) and bool((unique == index).all()):
        return block
    # Floats of eight bits cannot be indexed everywhere, their bytes can.
    return block.view(torch.uint8)[back].view(block.dtype) if block.element_size() == 1 else block[back]


class Restored:
    """What dequantised weights have in common: they look like a stored tensor of float32.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.packed_weights import Restored
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
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.packed_weights import Float4
        >>> T = torch.tensor([[[0x21]]], dtype=torch.uint8)
        >>> codes = SimpleNamespace(shape=T.shape, rows=lambda a, b: T[a:b])
        >>> scale = SimpleNamespace(shape=(1, 1), dtype=torch.float32, rows=lambda a, b: torch.ones(1, 1)[a:b])
        >>> Float4(codes, scale).rows(0, 1).tolist()
        [[0.5, 1.0]]
        """
        return self.decode(torch.arange(start, stop))

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
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.packed_weights import Float4
        >>> T = torch.tensor([[[0x21]], [[0x43]]], dtype=torch.uint8)
        >>> codes = SimpleNamespace(shape=T.shape, rows=lambda a, b: T[a:b])
        >>> scale = SimpleNamespace(shape=(2, 1), dtype=torch.float32, rows=lambda a, b: torch.ones(2, 1)[a:b])
        >>> Float4(codes, scale).take([1]).tolist()
        [[1.5, 2.0]]
        """
        return self.decode(torch.as_tensor(list(index), dtype=torch.long))


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
            group = self.groups.rows(0, self.columns).to(torch.long)
        else:
            group = torch.arange(self.columns) // -(-self.columns // scale.shape[1])
        if self.zeros is None:
            return numbers.to(torch.float32) * scale[:, group]
        whole = self.zeros.rows(0, self.zeros.shape[0])
        zero = self._unpack(whole.T, self.shape[0]).T[index]
        return (numbers - zero[:, group]).to(torch.float32) * scale[:, group]

    def _unpack(self, words, count):
        # Numbers whose bits do not divide a word leave its highest bits empty.
        per_word = 32 // self.bits
        shifts = self.bits * torch.arange(per_word, dtype=torch.int32)
        numbers = (words.to(torch.int32).unsqueeze(-1) >> shifts) & (2**self.bits - 1)
        return numbers.flatten(-2)[..., :count] - 2 ** (self.bits - 1)


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
    >>> from sciml.stats.spectra.packed_weights import Blockwise4
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
        >>> from sciml.stats.spectra.packed_weights import Blockwise4
        >>> def stored(T):
        ...     return SimpleNamespace(shape=tuple(T.shape), rows=lambda a, b: T[a:b])
        >>> codes, absmax = stored(torch.tensor([[0x12]], dtype=torch.uint8)), stored(torch.tensor([1.0]))
        >>> Blockwise4(codes, absmax, torch.arange(16.0), (1, 2), 64, None).decode(torch.tensor([0])).tolist()
        [[1.0, 2.0]]
        """
        columns = self.shape[1]
        entry = (index[:, None] * columns + torch.arange(columns)).flatten()
        byte = fetch(self.codes, torch.unique(entry // 2)).flatten().to(torch.int32)
        place = torch.searchsorted(torch.unique(entry // 2), entry // 2)
        code = torch.where(entry % 2 == 0, byte[place] >> 4, byte[place] & 15).to(torch.long)
        return (self.table.to(torch.float32)[code] * self._largest(entry // self.block)).reshape(len(index), columns)

    def _largest(self, blocks):
        unique, back = torch.unique(blocks, return_inverse=True)
        largest = fetch(self.absmax, unique)
        if self.nested is not None:
            table, outer, size, offset = self.nested
            largest = table.to(torch.float32)[largest.to(torch.long)] * fetch(outer, unique // size) + offset
        return largest.to(torch.float32)[back]


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
    >>> from sciml.stats.spectra.packed_weights import Float4
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
        >>> from sciml.stats.spectra.packed_weights import Float4
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
