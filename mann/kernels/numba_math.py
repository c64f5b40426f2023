"""Arithmetic that compiled scans share: how it is compiled, exponentials that vectorise, and sums.

Everything here is for numba. Numbers of a kernel have one type, float32 or float64: a literal is written `one(x)` or
made from the array's own type, because a bare literal would make float64 of float32.

Products may be fused into sums ("contract"): the same compiled code gives the same bits, and NaN and infinity stay what
they are. What is computed for a slot comes out the same to the bit wherever the slot lies, so that usages that tie stay
tied. Only sums over slots may be taken in another order than written ("reassoc").
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.extending import overload

CONFIG: Any = numba.config
FLAGS: Any = {"nogil": True, "error_model": "numpy"}
INNER = FLAGS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Of functions that compiled code alone calls: a call from Python would crash, see `callable_from_python`."""
IN_ORDER = {"contract"}
ANY_ORDER = {"contract", "reassoc", "nsz"}


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on the first call. Callers that are compiled themselves take it in."""
    return numba.njit(fastmath=IN_ORDER, **INNER)(function)


def summing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a function whose sums may be taken in any order."""
    return numba.njit(fastmath=ANY_ORDER, **INNER)(function)


def choosing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a function that compares numbers, none of which is NaN."""
    return numba.njit(fastmath=ANY_ORDER | {"nnan"}, **INNER)(function)


def callable_from_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `jit` and the like return, to be tried out by itself."""
    return numba.njit(lambda *arguments: function(*arguments), **FLAGS)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on the first call, once a machine: the code is kept on disk, see `folder`.

    Where no folder can be written it is compiled once a process.
    """
    given, CONFIG.CACHE_DIR = CONFIG.CACHE_DIR, str(folder())
    try:
        return numba.njit(fastmath=IN_ORDER, cache=True, **FLAGS)(function)
    except RuntimeError:
        return numba.njit(fastmath=IN_ORDER, **FLAGS)(function)
    finally:
        CONFIG.CACHE_DIR = given


def folder() -> Path:
    """Where compiled code is kept: under `$NUMBA_CACHE_DIR`, or beside Python's own compiled files.

    One folder for each state of these sources: numba by itself looks at the file of the kernel alone, and would go on
    with old code after a change of a function that the kernel calls.
    """
    here = Path(__file__).parent
    content = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(here.glob("numba_*.py"))))
    return Path(CONFIG.CACHE_DIR or here / "__pycache__") / f"kernels-{content.hexdigest()[:12]}"


# --------------------------------------------------------------------------------------------------------- exponentials


def exponential(x: float) -> float:
    """e^x; 0 below the least normal number, infinity from the largest over √2; for compiled code."""
    raise NotImplementedError


def hyperbolic(x: float) -> float:
    """tanh x, as precise near 0 as elsewhere; for compiled code."""
    raise NotImplementedError


def logarithm(x: float) -> float:
    """ln x of a positive normal number, infinity or NaN; for compiled code."""
    raise NotImplementedError


def _make(
    real: type, whole: type, mantissa: int, bias: int, terms: tuple[int, int], high: float, low: float
) -> tuple[Any, Any, Any]:
    """Exponential, hyperbolic tangent and logarithm for one type. terms: of the series of the first and of the last.

    e^x = 2^n e^r with |r| ≤ ln 2 / 2: e^r - 1 by its series, 2^n by writing n into the exponent's bits. n is rounded by
    adding a number so large that nothing behind the point is left. ln 2 is split in `high`, whose product with any n is
    exact, and `low`.

    ln x = n ln 2 + ln m with m from √½ to √2, cut out of x's bits; ln m = 2 artanh((m - 1) / (m + 1)), by its series.
    """
    # All are of the one type: the compiler takes them in as constants.
    rounding = real(1.5 * 2**mantissa)
    zero_bits = whole(np.array(rounding).view(whole) - bias)
    per, high, low, one, two = real(1 / math.log(2)), real(high), real(low), real(1), real(2)
    smallest, largest, enough = real(-math.log(2) * bias), real(math.log(2) * (bias + 1)), real(40)
    coefficients = tuple(real(1 / math.factorial(k)) for k in range(terms[0], 0, -1))
    odd = tuple(real(2 / (2 * k + 1)) for k in range(terms[1], -1, -1))
    shift, infinity, root = whole(mantissa), real(math.inf), whole(np.array(math.sqrt(0.5), real).view(whole))

    @numba.njit(fastmath=IN_ORDER, **INNER)
    def parts(x: Any) -> Any:
        """e^r - 1, 2^n."""
        shifted = real(x * per + rounding)
        n = shifted - rounding
        r = (x - n * high) - n * low
        p = coefficients[0]
        for c in coefficients[1:]:
            p = p * r + c
        return p * r, whole((shifted.view(whole) - zero_bits) << shift).view(real)

    def exponential(x: Any) -> Any:
        x = smallest if x < smallest else x
        x = largest if x > largest else x
        p, power = parts(x)
        return (p + one) * power

    def hyperbolic(x: Any) -> Any:
        x = two * x
        x = -enough if x < -enough else x
        x = enough if x > enough else x
        p, power = parts(x)
        less = p * power + (power - one)
        return less / (less + two)

    def logarithm(x: Any) -> Any:
        bits = real(x).view(whole)
        n = whole(whole(bits - root) >> shift)
        m = whole(bits - whole(n << shift)).view(real)
        t = (m - one) / (m + one)
        square = t * t
        p = odd[0]
        for c in odd[1:]:
            p = p * square + c
        return real(n) * high + (real(n) * low + t * p) if x < infinity else x

    return exponential, hyperbolic, logarithm


_SINGLE = _make(np.float32, np.int32, 23, 127, (8, 5), 0.693145751953125, 1.428606765330187e-06)
_DOUBLE = _make(np.float64, np.int64, 52, 1023, (14, 11), 0.6931471803691238, 1.9082149292705877e-10)


@overload(exponential, jit_options={"fastmath": IN_ORDER, **FLAGS})
def _exponential(x: Any) -> Any:
    return (_SINGLE if x is numba.float32 else _DOUBLE)[0]


@overload(hyperbolic, jit_options={"fastmath": IN_ORDER, **FLAGS})
def _hyperbolic(x: Any) -> Any:
    return (_SINGLE if x is numba.float32 else _DOUBLE)[1]


@overload(logarithm, jit_options={"fastmath": IN_ORDER, **FLAGS})
def _logarithm(x: Any) -> Any:
    return (_SINGLE if x is numba.float32 else _DOUBLE)[2]


@jit
def one(x):
    """1 of the array's type."""
    return x.dtype.type(1)


@jit
def zero(x):
    """0 of the array's type."""
    return x.dtype.type(0)


@jit
def copy(x, out):
    """out[:] = x, which in numba's own words takes seconds to compile, for the sake of a message. Any equal shapes."""
    given, made = x.reshape(x.size), out.reshape(out.size)
    for i in range(len(made)):
        made[i] = given[i]


@jit
def clear(out):
    """out[:] = 0. Any shape, contiguous."""
    made = out.reshape(out.size)
    for i in range(len(made)):
        made[i] = zero(out)


@jit
def tanh_(x):
    """tanh in place. x: [n]."""
    for i in range(len(x)):
        x[i] = hyperbolic(x[i])


@jit
def sigmoid_(x):
    """σ in place. x: [n]."""
    for i in range(len(x)):
        x[i] = one(x) / (one(x) + exponential(-x[i]))


@jit
def softplus_(x):
    """ln(1 + e^x) in place, and x itself above 20 as in torch. x: [n].

    1 + e^x may have lost digits of a small e^x; how many is seen from what it kept.
    """
    for i in range(len(x)):
        power = exponential(x[i])
        summed = one(x) + power
        kept = summed - one(x)
        value = logarithm(summed) * (power / kept) if kept > zero(x) else power
        x[i] = x[i] if x[i] > x.dtype.type(20) else value


@jit
def softmax(x, out):
    """out: softmax of x, [n]; they may be one. A NaN anywhere makes all NaN."""
    top = largest(x)
    for i in range(len(x)):
        out[i] = exponential(x[i] - top)
    scale = one(x) / total(out)
    for i in range(len(out)):
        out[i] *= scale


@jit
def softmax_backward(weights, grad):
    """From the gradient of a softmax to that of its arguments, in place."""
    mean = dot(weights, grad)
    for i in range(len(grad)):
        grad[i] = weights[i] * (grad[i] - mean)


# ----------------------------------------------------------------------------------------------------------------- sums


@summing
def total(x):
    """Σ x. x: [n]."""
    found = zero(x)
    for i in range(len(x)):
        found += x[i]
    return found


@summing
def dot(x, y):
    """Σ x y. x, y: [n]."""
    found = zero(x)
    for i in range(len(x)):
        found += x[i] * y[i]
    return found


@choosing
def largest(x):
    """The largest of x, [n]; any number where one of them is NaN."""
    found = x[0]
    for i in range(1, len(x)):
        found = x[i] if x[i] > found else found
    return found


@jit
def length(x):
    """|x|. x: [n]."""
    return x.dtype.type(math.sqrt(dot(x, x)))
