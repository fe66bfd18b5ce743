"""A shuffle of any number of things that takes no memory."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Permutation:
    """A shuffle of range(size) that is computed, not stored: a Feistel network of four rounds, keyed by `keys`.

    The network permutes the next power of four; what falls outside range(size) goes through again until it falls inside.
    Ordinals from `size` on start over.
    """

    _ROUNDS = 4

    def __init__(self, size: int, *keys: int) -> None:
        self.size = size
        self._half_bits = np.uint64(max(1, math.ceil(max(size - 1, 1).bit_length() / 2)))
        self._mask = np.uint64((1 << int(self._half_bits)) - 1)
        entropy = [key % 2**64 for key in keys]
        self._keys = np.random.SeedSequence(entropy).generate_state(self._ROUNDS, np.uint64)

    def __call__(self, ordinals: Ints) -> Ints:
        value = (ordinals % self.size).astype(np.uint64)
        outside = np.ones(len(value), dtype=bool)
        while outside.any():
            value[outside] = self._network(value[outside])
            outside = value >= self.size
        return value.astype(np.int64)

    def _network(self, value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = value >> self._half_bits, value & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A bijective hash of 64 bits (the finaliser of SplitMix64); multiplication wraps on purpose."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
