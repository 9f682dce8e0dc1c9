"""What compiled loops share: numba's settings, bfloat16 (which numpy does not have), a fast exponential.

A loop compiled by numba does in one pass what takes several tensor operations, each of which goes through memory. The
first use compiles, which takes seconds, and keeps the result beside the file or, where that is not writable, in
numba's cache folder.

Arrays are float32, or uint16 that hold bfloat16; between `load` and `store` everything is float32. Sums may be
reordered, but numbers that are no numbers stay so: a broken model must be noticed.

Loops marked `parallel` share torch's threads where both use the system's OpenMP, as on Linux.
"""

from typing import Any

import numpy as np
import torch
from numba import config, njit, set_num_threads, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu import CPUContext
from numba.extending import intrinsic, overload

Array = np.ndarray[Any, Any]

_FAST = {"reassoc", "contract", "nsz", "arcp"}
kernel = njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", boundscheck=False)
_parallel = njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", boundscheck=False, parallel=True)
inline = njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", inline="always")


def parallel(loop: Any) -> Any:
    """Compiles the loop with threads, and runs what was kept of that also in the process that has just compiled it.

    numba compiles the body of a parallel loop by itself and again inside its function. In the process that compiles,
    the first of the two runs; one that loads what was kept has the second only, in which sums may be ordered otherwise.
    A job that is resumed, or an engine that starts again, would compute other last bits.
    """
    dispatcher: Any = _parallel(loop)
    compile_or_load, superseded = dispatcher.compile, []

    def compile_as_kept(signature: Any) -> Any:
        with global_compiler_lock:
            before = sum(dispatcher.stats.cache_misses.values())
            entry_point = compile_or_load(signature)
            if sum(dispatcher.stats.cache_misses.values()) == before:
                return entry_point
            # With a linker of its own: in the first one's, the names are taken.
            kept = dispatcher._cache.load_overload(signature, CPUContext(dispatcher.typingctx))
            if kept is None:  # nothing can be written anywhere: every process compiles, and all compute the same
                return entry_point
            superseded.append(dict(dispatcher.overloads))  # other threads may be running it
            others = [made for made in dispatcher.overloads.values() if made.signature.args != kept.signature.args]
            dispatcher._reset_overloads()
            for made in (*others, kept):
                dispatcher.add_overload(made)
            return kept.entry_point

    dispatcher.compile = compile_as_kept
    return dispatcher


def use_threads(count: int) -> None:
    """How many threads the calling thread's parallel loops use. Starts them: a process must not fork any more."""
    most: int = config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue] - made at import
    set_num_threads(min(count, most))


ONE, ZERO, _HALF = np.float32(1), np.float32(0), np.float32(0.5)
LOWEST = np.float32(-3.4e38)


def _bitcast(source: Any, target: Any) -> Any:
    @intrinsic
    def cast(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), generate

    return cast


float_of_bits = _bitcast(types.uint32, types.float32)
bits_of_float = _bitcast(types.float32, types.uint32)


def load(value: Any) -> Any:
    """A stored number as float32. Exists in compiled code only, as does store."""
    raise NotImplementedError


def store(array: Array, index: Any, value: Any) -> None:
    """array[index] = value, rounded to the nearest even bfloat16 where the array holds those."""
    raise NotImplementedError


@overload(load, inline="always")
def _load_overload(value: Any) -> Any:
    def as_it_is(value: Any) -> Any:
        return value

    def widened(value: Any) -> Any:
        return float_of_bits(np.uint32(value) << np.uint32(16))

    return as_it_is if isinstance(value, types.Float) else widened


@overload(store, inline="always")
def _store_overload(array: Any, index: Any, value: Any) -> Any:
    def as_it_is(array: Any, index: Any, value: Any) -> None:
        array[index] = value

    def rounded(array: Any, index: Any, value: Any) -> None:
        bits = bits_of_float(value)
        array[index] = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)

    return as_it_is if isinstance(array.dtype, types.Float) else rounded


_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXP = tuple(
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_EXP_LOW, _EXP_HIGH = np.float32(-87.3), np.float32(88.3)


@inline
def exp(x: Any) -> Any:
    """e^x in float32 after Cephes' expf: without branches, so that a loop of it uses the vector unit."""
    x = _EXP_LOW if x < _EXP_LOW else x
    x = _EXP_HIGH if x > _EXP_HIGH else x
    n = np.floor(x * _LOG2_E + _HALF)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    y = ((((_EXP[0] * r + _EXP[1]) * r + _EXP[2]) * r + _EXP[3]) * r + _EXP[4]) * r + _EXP[5]
    y = y * r * r + r + ONE
    return y * float_of_bits(np.uint32(np.int32(n) + np.int32(127)) << np.uint32(23))


@inline
def _by_size(value: Any) -> Any:
    """An int32 in the order of the floats."""
    bits = np.int32(bits_of_float(value))
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@inline
def largest(values: Array) -> Any:
    """The maximum of float32 values [N]; no number where one is none.

    As integers: a maximum of floats has to look for NaN, and is taken one by one.
    """
    top = np.int32(-0x80000000)
    for i in range(len(values)):
        top = max(top, _by_size(values[i]))
    return float_of_bits(np.uint32(top ^ ((top >> np.int32(31)) & np.int32(0x7FFFFFFF))))


def as_array(tensor: torch.Tensor) -> Any:
    """The same memory for the loops: float32, or bfloat16 as uint16. Of any shape."""
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor.detach()).numpy()


def as_tensor(array: Array) -> torch.Tensor:
    """The same memory for torch: the reverse of as_array. Of any shape."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor
