"""The largest of some numbers in the order in which `torch.topk` gives them on the CPU, ties included, for numba.

A sparse memory begins with slots that nothing tells apart, and which of them are read decides which are written next.
torch.topk orders (value, place) pairs by the C++ library: `partial_sort` where few of many are wanted, else
`nth_element` and then `sort`. Here these are done comparison by comparison as in GNU's library, of places alone. With
another library ties may be taken in another order than by the reference there.
"""

from __future__ import annotations

import math

from mann.kernels.numba_math import jit

MOST = 17
"""So many can be asked for: above, GNU's `sort` does not only insert."""


@jit
def topk(values, order, k):
    """order[:k]: places of the k ≤ `MOST` largest values, a NaN the largest. order: room for len(values) places."""
    for i in range(len(values)):
        order[i] = i
    order = order[: len(values)]
    if 64 * k <= len(values):
        _heap_select(values, order, k)
        for last in range(k - 1, 0, -1):
            place = order[last]
            order[last] = order[0]
            _sift(values, order, 0, last, place)
    else:
        _select(values, order, k - 1)
        _insertion_sort(values, order[: k - 1])


@jit
def _before(values, i, j):
    a, b = values[i], values[j]
    return a > b or (math.isnan(a) and not math.isnan(b))


@jit
def _swap(order, i, j):
    order[i], order[j] = order[j], order[i]


@jit
def _insertion_sort(values, order):
    for i in range(1, len(order)):
        place, j = order[i], i
        if _before(values, place, order[0]):
            while j > 0:
                order[j] = order[j - 1]
                j -= 1
        else:
            while _before(values, place, order[j - 1]):
                order[j] = order[j - 1]
                j -= 1
        order[j] = place


@jit
def _select(values, order, nth):
    """order[:nth] is not behind order[nth], what follows not before it."""
    first, last, depth = 0, len(order), 0
    while 2 << depth <= len(order):
        depth += 1
    depth *= 2
    while last - first > 3:
        if depth == 0:
            _heap_select(values, order[first:last], nth + 1 - first)
            _swap(order, first, nth)
            return
        depth -= 1
        cut = first + _partition(values, order[first:last])
        if cut <= nth:
            first = cut
        else:
            last = cut
    _insertion_sort(values, order[first:last])


@jit
def _partition(values, order):
    """Around the median of the second, the middle and the last, which is put first; returns where the rest begins."""
    a, b, c = 1, len(order) // 2, len(order) - 1
    if _before(values, order[a], order[b]):
        if _before(values, order[b], order[c]):
            _swap(order, 0, b)
        elif _before(values, order[a], order[c]):
            _swap(order, 0, c)
        else:
            _swap(order, 0, a)
    elif _before(values, order[a], order[c]):
        _swap(order, 0, a)
    elif _before(values, order[b], order[c]):
        _swap(order, 0, c)
    else:
        _swap(order, 0, b)
    first, last = 1, len(order)
    while True:
        while _before(values, order[first], order[0]):
            first += 1
        last -= 1
        while _before(values, order[0], order[last]):
            last -= 1
        if first >= last:
            return first
        _swap(order, first, last)
        first += 1


@jit
def _heap_select(values, order, k):
    """order[:k]: the k first, as a heap whose top is the last of them."""
    for parent in range((k - 2) // 2, -1, -1):
        if k >= 2:
            _sift(values, order, parent, k, order[parent])
    for i in range(k, len(order)):
        if _before(values, order[i], order[0]):
            place = order[i]
            order[i] = order[0]
            _sift(values, order, 0, k, place)


@jit
def _sift(values, order, hole, size, place):
    """Put a place into a heap of some size with a hole: down to a leaf, then up to where it belongs."""
    top, child = hole, 2 * hole + 2
    while child < size:
        if _before(values, order[child], order[child - 1]):
            child -= 1
        order[hole] = order[child]
        hole, child = child, 2 * child + 2
    if child == size:
        order[hole] = order[child - 1]
        hole = child - 1
    while hole > top and _before(values, order[(hole - 1) // 2], place):
        order[hole] = order[(hole - 1) // 2]
        hole = (hole - 1) // 2
    order[hole] = place
