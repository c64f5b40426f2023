"""Using, allocating, writing and mixing as in `mann.dnc.DNC`, for one row and step, and their gradients, for numba.

A memory lies here with slots last, [width, slots]. Names of gradients end in `_grad`; everything else is called as in
`mann.dnc`.
"""

from __future__ import annotations

import math

from mann.addressing import LEAST
from mann.dnc import UNUSED
from mann.kernels.numba_math import copy, dot, jit, one, softmax, softmax_backward, summing, total, zero


@jit
def retain(free, read, retention):
    """ψ. free: [reads]; read: the weights of the step before, [reads, slots]; retention: set, [slots]."""
    for i in range(len(retention)):
        retention[i] = one(free)
    for h in range(len(free)):
        gate, row = free[h], read[h]
        for i in range(len(row)):
            retention[i] *= one(free) - gate * row[i]


@jit
def retain_backward(retention_grad, free, read, free_grad, read_grad, rest):
    """Sets free_grad, adds to read_grad. No factor is divided by, as it may be zero. rest: scratch, [slots]."""
    for h in range(len(free)):
        copy(retention_grad, rest)
        for other in range(len(free)):
            if other != h:
                gate, row = free[other], read[other]
                for i in range(len(rest)):
                    rest[i] *= one(free) - gate * row[i]
        free_grad[h] = -dot(rest, read[h])
        gate, grad = free[h], read_grad[h]
        for i in range(len(rest)):
            grad[i] -= gate * rest[i]


@jit
def use(before, written, retention, usage):
    """u_t, set. before: u_{t-1}; written: w^w_{t-1}."""
    for i in range(len(usage)):
        usage[i] = (before[i] + written[i] * (one(usage) - before[i])) * retention[i]


@jit
def use_backward(usage_grad, before, written, retention, written_grad, retention_grad):
    """From usage_grad, of u_t, to that of u_{t-1}, in place; written_grad is set, retention_grad added to."""
    for i in range(len(usage_grad)):
        retention_grad[i] += usage_grad[i] * (before[i] + written[i] * (one(before) - before[i]))
        scaled = usage_grad[i] * retention[i]
        written_grad[i] = scaled * (one(before) - before[i])
        usage_grad[i] = scaled * (one(before) - written[i])


@jit
def _before(usage, a, b):
    """Whether slot a is freer than slot b; the lowest index first, and a NaN is the largest."""
    if usage[a] < usage[b]:
        return True
    if usage[b] < usage[a]:
        return False
    broken = math.isnan(usage[a])
    return a < b if broken == math.isnan(usage[b]) else not broken


@jit
def sort(usage, order, room):
    """order: slots by ascending usage, from any order; from that of the step before it is quickest. room: as order.

    A merge sort from short pieces to long ones; pieces that are in order already are not merged.
    """
    slots, size = len(order), 1
    while size < slots:
        for start in range(0, slots - size, 2 * size):
            middle, end = start + size, min(start + 2 * size, slots)
            if _before(usage, order[middle - 1], order[middle]):
                continue
            copy(order[start:middle], room[start:middle])
            left, right, place = start, middle, start
            while left < middle and right < end:
                if _before(usage, order[right], room[left]):
                    order[place] = order[right]
                    right += 1
                else:
                    order[place] = room[left]
                    left += 1
                place += 1
            while left < middle:
                order[place] = room[left]
                left += 1
                place += 1
        size *= 2


@jit
def allocate(usage, order, allocated):
    """a_t, set."""
    product, unused = one(usage), usage.dtype.type(UNUSED)
    for i in order:
        allocated[i] = (one(usage) - usage[i]) * product
        product *= usage[i] + unused


@jit
def allocate_backward(allocated_grad, usage, order, usage_grad, products):
    """Adds to usage_grad. products: scratch, [slots].

    With q(j) the product of usages before place j, a(j) = (1 - u(j)) q(j), and what u(j) does to all later ones is
    q(j) times a sum that is built from the last place to the first. Nothing is divided, so that unused slots are no
    exception.
    """
    product, unused, later = one(usage), usage.dtype.type(UNUSED), zero(usage)
    for j in range(len(order)):
        products[j] = product
        product *= usage[order[j]] + unused
    for j in range(len(order) - 1, -1, -1):
        i = order[j]
        usage_grad[i] += products[j] * (later - allocated_grad[i])
        later = allocated_grad[i] * (one(usage) - usage[i]) + (usage[i] + unused) * later


@jit
def place(gates, allocated, found, written):
    """w^w_t, set. gates: g^a, g^w."""
    toward, gate = gates[0], gates[1]
    for i in range(len(written)):
        written[i] = gate * (toward * allocated[i] + (one(gates) - toward) * found[i])


@jit
def place_backward(written_grad, gates, allocated, found, gates_grad, found_grad):
    """Sets gates_grad and found_grad; written_grad becomes the gradient of a_t."""
    toward, gate = gates[0], gates[1]
    from_allocated, from_found = dot(written_grad, allocated), dot(written_grad, found)
    gates_grad[0] = gate * (from_allocated - from_found)
    gates_grad[1] = toward * from_allocated + (one(gates) - toward) * from_found
    for i in range(len(written_grad)):
        found_grad[i] = gate * (one(gates) - toward) * written_grad[i]
        written_grad[i] *= gate * toward


@jit
def write(memory, retention, wipe, written, erase, value, after):
    """after: M_t. memory: M_{t-1}."""
    for w in range(len(memory)):
        row, out, e, v = memory[w], after[w], erase[w], value[w]
        if wipe:
            for i in range(len(row)):
                kept = row[i] * retention[i]
                out[i] = kept + written[i] * (v - e * kept)
        else:
            for i in range(len(row)):
                out[i] = row[i] + written[i] * (v - e * row[i])


@jit
def write_backward(
    memory_grad, memory, retention, wipe, written, erase, value, written_grad, erase_grad, value_grad, retention_grad
):
    """From memory_grad, of M_t, to that of M_{t-1}, in place.

    erase_grad and value_grad are set, written_grad and retention_grad added to.
    """
    for w in range(len(memory)):
        row, grad, e, v = memory[w], memory_grad[w], erase[w], value[w]
        if wipe:
            value_grad[w] = dot(grad, written)
            erase_grad[w] = -_weighted(grad, row, written, retention)
            for i in range(len(row)):
                kept = row[i] * retention[i]
                written_grad[i] += grad[i] * (v - e * kept)
                kept_grad = grad[i] * (one(grad) - e * written[i])
                retention_grad[i] += kept_grad * row[i]
                grad[i] = kept_grad * retention[i]
        else:
            value_grad[w], erase_grad[w] = _overwrite(grad, row, written, e, v, written_grad)


@summing
def _weighted(a, b, c, d):
    found = zero(a)
    for i in range(len(a)):
        found += a[i] * b[i] * c[i] * d[i]
    return found


@summing
def _overwrite(grad, row, written, e, v, written_grad):
    """One column of the memory in `write_backward`: returns the gradients of v and e."""
    added = erased = zero(grad)
    for i in range(len(grad)):
        part, scaled = grad[i] * row[i], grad[i] * written[i]
        added += scaled
        erased -= scaled * row[i]
        written_grad[i] += grad[i] * v - e * part
        grad[i] -= e * scaled
    return added, erased


@jit
def precede(precedence, written, after):
    """p_t, set. precedence: p_{t-1}; written: w^w_t."""
    keep = one(written) - total(written)
    for i in range(len(written)):
        after[i] = keep * precedence[i] + written[i]


@jit
def precede_backward(precedence_grad, precedence, written, written_grad):
    """From precedence_grad, of p_t, to that of p_{t-1}, in place; adds to written_grad."""
    along, keep = dot(precedence_grad, precedence), one(written) - total(written)
    for i in range(len(written)):
        written_grad[i] += precedence_grad[i] - along
        precedence_grad[i] *= keep


@jit
def mix(modes, backward, found, forward, weights):
    """w^r_t, set: out of backward, content and forward weights, each [reads, slots]."""
    for h in range(len(weights)):
        a, b, c = modes[h, 0], modes[h, 1], modes[h, 2]
        for i in range(weights.shape[1]):
            weights[h, i] = a * backward[h, i] + b * found[h, i] + c * forward[h, i]


@jit
def mix_backward(weights_grad, modes, backward, found, forward, modes_grad, backward_grad, forward_grad):
    """Sets the gradients of modes, backward and forward weights; weights_grad becomes that of the content weights."""
    for h in range(len(modes)):
        grad = weights_grad[h]
        modes_grad[h, 0] = dot(grad, backward[h])
        modes_grad[h, 1] = dot(grad, found[h])
        modes_grad[h, 2] = dot(grad, forward[h])
        a, b, c = modes[h, 0], modes[h, 1], modes[h, 2]
        for i in range(len(grad)):
            backward_grad[h, i] = a * grad[i]
            forward_grad[h, i] = c * grad[i]
            grad[i] *= b


@jit
def sharpen(weights, power, room, out):
    """out: w(i)^s / Σ_j w(j)^s; see `mann.addressing.sharpen`. room: scratch, [slots]."""
    for i in range(len(weights)):
        room[i] = power * _log(weights[i])
    softmax(room, out)


@jit
def sharpen_backward(out_grad, weights, power, out):
    """From the gradient of what is sharpened to that of the weights, in place. Returns that of the power."""
    least, power_grad = weights.dtype.type(LEAST), zero(weights)
    softmax_backward(out, out_grad)
    for i in range(len(weights)):
        power_grad += out_grad[i] * _log(weights[i])
        out_grad[i] = out_grad[i] * power / weights[i] if weights[i] >= least else zero(weights)
    return power_grad


@jit
def _log(weight):
    """Of the weight, or of the least that counts."""
    least = type(weight)(LEAST)
    return math.log(least if weight < least else weight)
