"""The temporal links of `mann.sdnc.SDNC` for one row and step, for numba. They have no gradient.

before, strength: N's rows, [slots, links] (strength has a row more, which is left alone); after: P. Everything is
called as in `mann.sdnc`, and done in its order, for what is kept of a list depends on where in it equal numbers stand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mann.kernels.numba_math import jit, one, zero
from mann.kernels.numba_topk import topk

Array = Any


class Lists(NamedTuple):
    """Room for the lists of one row at a time; each as long as the longest."""

    places: Array
    weights: Array
    summed: Array
    order: Array
    chosen: Array
    totals: Array
    """[slots]"""
    done: Array
    """[slots], bool"""
    written: Array
    """[slots], bool: all false between steps."""
    first: Array
    """[written slots], bool: whether the slot has not come before."""
    spots: Array
    """[written slots · links]"""
    weakened: Array
    """[written slots · links]"""


@jit
def lists_for(like, heads, k, slots, links):
    """Lists for a memory of such sizes."""
    kind, places = like.dtype, heads * k + 1
    longest = max(k * links, 2 * links, links + places, 3 * k)
    return Lists(
        np.empty(longest, np.int64),
        np.empty(longest, kind),
        np.empty(longest, kind),
        np.empty(longest, np.int64),
        np.empty(longest, np.int64),
        np.empty(slots, kind),
        np.empty(slots, np.bool_),
        np.zeros(slots, np.bool_),
        np.empty(places, np.bool_),
        np.empty(places * links, np.int64),
        np.empty(places * links, kind),
    )


@jit
def largest(n, lists, slots, weights):
    """As `mann.sdnc.largest`: of the first n of lists.places and lists.weights into slots and weights, [k].

    lists.chosen: where in the list each stands; -1 where its slot stands before, so that it has no weight.
    """
    places, totals, summed = lists.places[:n], lists.totals, lists.summed[:n]
    for i in places:
        totals[i] = zero(totals)
        lists.done[i] = False
    for i in range(n):
        totals[places[i]] += lists.weights[i]
    for i in range(n):
        slot = places[i]
        summed[i] = -one(totals) if lists.done[slot] else totals[slot]
        lists.done[slot] = True
    topk(summed, lists.order, len(slots))
    for i in range(len(slots)):
        at = lists.order[i]
        again = summed[at] < zero(summed)
        slots[i] = places[at]
        weights[i] = zero(summed) if again else summed[at]
        lists.chosen[i] = -1 if again else at


@jit
def entry(before, strength, follower, slot):
    """N(follower, slot): its column, the first where there is none, and its value, 0 where there is none."""
    column, value = 0, zero(strength)
    if follower >= 0:
        for c in range(before.shape[1]):
            if before[follower, c] == slot and strength[follower, c] > value:
                column, value = c, strength[follower, c]
    return column, value


@jit
def link(before, strength, after, preceding, precedence, places, sums, lists):
    """Update N, P and the precedence in place for a write. places: of the write, sums: what came to each, [slots]."""
    links = len(preceding)
    for j in range(len(places)):
        lists.first[j] = not lists.written[places[j]]
        lists.written[places[j]] = True
    _weaken_followers(before, strength, after, places, sums, lists)
    for j in range(len(places)):
        if lists.first[j]:
            _relink(before, strength, preceding, precedence, places[j], sums, lists)
    for q in range(links):
        again = False
        for p in range(q):
            again |= preceding[p] == preceding[q]
        if not again:
            _list_followers(before, strength, after, preceding[q], places, lists)
    gone = zero(sums)
    for j in range(len(places)):
        lists.written[places[j]] = False
        once = sums[places[j]] if lists.first[j] else zero(sums)
        gone += once
        lists.places[links + j], lists.weights[links + j] = places[j], once
    for q in range(links):
        lists.places[q], lists.weights[q] = preceding[q], max(one(sums) - gone, zero(sums)) * precedence[q]
    largest(links + len(places), lists, preceding, precedence)


@jit
def _weaken_followers(before, strength, after, places, sums, lists):
    """Multiply N(i, j) by 1 - w(j) for the slots j written and each i that was not."""
    links = before.shape[1]
    for j in range(len(places)):
        for q in range(links):
            follower, at = after[places[j], q] - 1, j * links + q
            column, value = entry(before, strength, follower, places[j])
            there = value > zero(sums) and not lists.written[follower]
            lists.spots[at] = follower * links + column if there else -1
            lists.weakened[at] = value * (one(sums) - sums[places[j]])
    # All are read before one is set: a slot may be written twice, and its links are weakened by all of it at once.
    for at in range(len(lists.spots)):
        spot = lists.spots[at]
        if spot >= 0:
            strength[spot // links, spot % links] = lists.weakened[at]


@jit
def _relink(before, strength, preceding, precedence, slot, sums, lists):
    """The row of N of a slot written."""
    links = len(preceding)
    for q in range(links):
        source = before[slot, q]
        by_source = sums[source] if lists.written[source] else zero(sums)
        kept = max(one(sums) - sums[slot] - by_source, zero(sums)) * strength[slot, q]
        lists.places[q], lists.weights[q] = source, kept if source != slot else zero(sums)
    for q in range(links):
        source, new = preceding[q], sums[slot] * precedence[q]
        lists.places[links + q], lists.weights[links + q] = source, new if source != slot else zero(sums)
    largest(2 * links, lists, before[slot], strength[slot])


@jit
def _list_followers(before, strength, after, slot, places, lists):
    """Keep in P, for a slot of the precedence, the strongest of its followers and the slots written."""
    links = before.shape[1]
    count = links + len(places)
    for q in range(count):
        lists.places[q] = after[slot, q] - 1 if q < links else places[q - links]
        lists.weights[q] = entry(before, strength, lists.places[q], slot)[1]
        lists.summed[q] = lists.weights[q]
        for p in range(q):
            if lists.places[p] == lists.places[q]:
                lists.summed[q] = zero(strength)
    best = lists.summed[:count]
    topk(best, lists.order, links)
    for q in range(count):
        lost = lists.weights[q] > zero(strength)
        for p in range(links):
            lost &= lists.places[lists.order[p]] != lists.places[q]
        if lost:
            column, value = entry(before, strength, lists.places[q], slot)
            if value > zero(strength):  # not yet lost: a follower may be listed twice
                strength[lists.places[q], column] = zero(strength)
    for p in range(links):
        at = lists.order[p]
        after[slot, p] = lists.places[at] + 1 if best[at] > zero(strength) else 0


@jit
def follow(before, strength, after, slots, weights, lists, found, amounts, factors):
    """b and f of a head: found, amounts: [2, k]. slots, weights: read last, [k].

    factors: [2, k, k], of each amount by each weight, which amounts are linear in.
    """
    links, k = before.shape[1], len(slots)
    raw = lists.weakened  # free by now, and k · links long
    for way in range(2):
        for j in range(k):
            for q in range(links):
                at = j * links + q
                if way == 0:
                    lists.places[at], raw[at] = before[slots[j], q], strength[slots[j], q]
                else:
                    follower = after[slots[j], q] - 1
                    lists.places[at], raw[at] = max(follower, 0), entry(before, strength, follower, slots[j])[1]
                lists.weights[at] = raw[at] * weights[j]
        largest(k * links, lists, found[way], amounts[way])
        factors[way] = zero(raw)
        for i in range(k):
            if lists.chosen[i] >= 0:
                for at in range(k * links):
                    if lists.places[at] == found[way, i]:
                        factors[way, i, at // links] += raw[at]
