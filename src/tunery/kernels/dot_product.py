"""Products of unsigned and signed bytes, for compiled loops, in the form that the processor has.

VNNI: one instruction multiplies four bytes of 16 (AVX-512) or 8 (AVX) outputs by four of an input and adds them up
in 32 bits: four times what it could do in float32. Without it, AVX2 and AVX-512 multiply pairs of bytes into 16 bits,
and pairs of those into 32: twice as much where the steps are small, as much as in float32 where they are not, but of a
quarter of the bytes. The sums are exact in each form, so all compute the same numbers to the bit. numba has no names
for these instructions, so the innermost block is written in LLVM's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from tunery.kernels.vectors import FLOAT, INT8, INT16, INT32, Writer

GROUP = 32  # weights and inputs that share a scale
# Steps that do not overflow 16 bits when a group is summed up there: 8 sums of two, 8 · 2 · 15 · 127 = 30,480.
SMALL = 15


@dataclass(frozen=True)
class Form:
    name: str
    lanes: int  # outputs that the processor computes at once
    has_vnni: bool
    most_rows: int  # computed together: each weight is read once for all, and as many sums fit into the registers


# By what the processor must have, the best first.
_FORMS = {
    "avx512vnni": Form("AVX-512 VNNI", 16, True, 8),
    "avxvnni": Form("AVX-VNNI", 8, True, 4),
    "avx512bw": Form("AVX-512", 16, False, 8),
    "avx2": Form("AVX2", 8, False, 4),
}


def _choose() -> Form | None:
    """None where the processor has none of them."""
    given: Any = config  # numba makes its names at import
    features = (get_host_cpu_features() if given.CPU_NAME is None else given.CPU_FEATURES or "").split(",")
    return next((form for feature, form in _FORMS.items() if f"+{feature}" in features), None)


FORM = _choose()
LANES, MOST_ROWS = (FORM.lanes, FORM.most_rows) if FORM else (0, 0)
HAS_VNNI = FORM is not None and FORM.has_vnni
AHEAD = 4096  # bytes; without asking for them so early a step waits a third longer for its weights


class Operands(NamedTuple):
    """Addresses, and the number G of groups: what a block product works on."""

    steps: Any  # [G, GROUP / 4, LANES, 4] uint8
    scales: Any  # [G, LANES] bfloat16: a weight is step · scale + low
    lows: Any  # [G, LANES] bfloat16
    inputs: Any  # [rows, G, GROUP] int8; where steps are widened int16, of each four the first, third, second, last
    input_scales: Any  # [rows, G] fp32: an input is integer · scale
    input_sums: Any  # [rows, G] fp32: of a group's inputs
    out: Any  # [rows, LANES] fp32
    num_groups: Any


def block_product(num_rows: int, *, widened: bool) -> Callable[..., None]:
    """A function for compiled loops that computes LANES outputs of so many rows. It takes Operands, one by one.

    `widened`: steps to 16 bits first, which those above SMALL need where the processor has no VNNI.
    """

    @intrinsic
    def product(
        typing_context: Any,
        steps: Any,
        scales: Any,
        lows: Any,
        inputs: Any,
        input_scales: Any,
        input_sums: Any,
        out: Any,
        num_groups: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            block = _BLOCKS["widened" if widened else "vnni" if HAS_VNNI else "small"]
            block(builder, num_rows, Operands(*args)).build()
            return context.get_dummy_value()

        return types.void(*[types.int64] * len(Operands._fields)), generate

    return product


class _Block(Writer):
    """Writes the instructions. What the forms differ in is how the integer sums of a group come about."""

    def __init__(self, builder: Any, num_rows: int, operands: Operands) -> None:
        super().__init__(builder, LANES)
        self.num_rows, self.operands = num_rows, operands
        self.shorts, self.bytes = ir.VectorType(INT16, 2 * LANES), ir.VectorType(INT8, 4 * LANES)
        self.no_ints = ir.Constant(self.ints, [0] * LANES)

    def build(self) -> None:
        builder = self.builder
        sums = [cgutils.alloca_once_value(builder, self.zeros) for _ in range(self.num_rows)]
        with cgutils.for_range(builder, self.operands.num_groups) as loop:
            self._add_group(loop.index, sums)
        for row, total in enumerate(sums):
            self.store(builder.load(total), self.at(self.operands.out, row * LANES * 4))

    def _add_group(self, group: Any, sums: list[Any]) -> None:
        builder = self.builder
        scale, low = self._halves(self.operands.scales, group), self._halves(self.operands.lows, group)
        for row, (dot, total) in enumerate(zip(self._dots(group), sums, strict=True)):
            place = builder.mul(
                builder.add(builder.mul(self.operands.num_groups, self.number(row)), group), self.number(4)
            )
            input_scale, input_sum = (
                self.splat(self.load(builder.add(base, place), FLOAT, 4))
                for base in (self.operands.input_scales, self.operands.input_sums)
            )
            scaled = builder.fmul(builder.sitofp(dot, self.floats), scale)
            value = self.fma(scaled, input_scale, builder.load(total))
            builder.store(self.fma(low, input_sum, value), total)

    def _dots(self, group: Any) -> list[Any]:
        """The integer sums of a group, for each row."""
        raise NotImplementedError

    def _weights(self, group: Any) -> Iterator[tuple[int, Any]]:
        """Of each four inputs of a group: the first one's number, and the steps as 32-bit integers [LANES]."""
        steps = self.builder.add(self.operands.steps, self.builder.mul(group, self.number(GROUP * LANES)))
        for offset in range(0, GROUP, 4):
            weights = self.load(self.at(steps, offset * LANES), self.ints, 4 * LANES)
            self.fetch(self.at(steps, offset * LANES + AHEAD))
            yield offset, weights

    def _inputs(self, group: Any, row: int, size: int) -> Any:
        """Where a row's inputs of a group begin, each of so many bytes."""
        groups = self.builder.add(self.builder.mul(self.operands.num_groups, self.number(row)), group)
        return self.builder.add(self.operands.inputs, self.builder.mul(groups, self.number(GROUP * size)))

    def _halves(self, base: Any, group: Any) -> Any:
        """A group's LANES bfloat16 as float32."""
        return self.bfloats(self.builder.add(base, self.builder.mul(group, self.number(2 * LANES))))

    def _four_bytes(self, place: Any, offset: int) -> Any:
        """What stands there, for every output [LANES]."""
        return self.splat(self.load(self.at(place, offset), INT32, 4))


class _Vnni(_Block):
    def _dots(self, group: Any) -> list[Any]:
        # LLVM's name of the 256-bit form is the same with and without AVX-512.
        dot = self.instruction(f"llvm.x86.avx512.vpdpbusd.{32 * LANES}", self.ints, [self.ints] * 3)
        dots = [self.no_ints] * self.num_rows
        places = [self._inputs(group, row, 1) for row in range(self.num_rows)]
        for offset, weights in self._weights(group):
            for row, place in enumerate(places):
                dots[row] = self.builder.call(dot, [dots[row], weights, self._four_bytes(place, offset)])
        return dots


class _Small(_Block):
    """Steps up to SMALL: the sums of a group fit into 16 bits."""

    def _dots(self, group: Any) -> list[Any]:
        builder = self.builder
        multiply = self.instruction(_PAIRS_OF_BYTES[LANES], self.shorts, [self.bytes] * 2)
        widen = self.instruction(_PAIRS_OF_SHORTS[LANES], self.ints, [self.shorts] * 2)
        sums = [ir.Constant(self.shorts, [0] * 2 * LANES)] * self.num_rows
        places = [self._inputs(group, row, 1) for row in range(self.num_rows)]
        for offset, weights in self._weights(group):
            for row, place in enumerate(places):
                four = builder.bitcast(self._four_bytes(place, offset), self.bytes)
                sums[row] = builder.add(sums[row], builder.call(multiply, [builder.bitcast(weights, self.bytes), four]))
        ones = ir.Constant(self.shorts, [1] * 2 * LANES)
        return [builder.call(widen, [total, ones]) for total in sums]


class _Widened(_Block):
    """Steps of any size, the even and the odd ones each in 16 bits."""

    def _dots(self, group: Any) -> list[Any]:
        builder = self.builder
        multiply = self.instruction(_PAIRS_OF_SHORTS[LANES], self.ints, [self.shorts] * 2)
        low, eight = (ir.Constant(self.shorts, [value] * 2 * LANES) for value in (0xFF, 8))
        dots = [self.no_ints] * self.num_rows
        places = [self._inputs(group, row, 2) for row in range(self.num_rows)]
        for offset, weights in self._weights(group):
            shorts = builder.bitcast(weights, self.shorts)
            for part, steps in enumerate((builder.and_(shorts, low), builder.lshr(shorts, eight))):
                for row, place in enumerate(places):
                    two = builder.bitcast(self._four_bytes(place, 2 * offset + 4 * part), self.shorts)
                    dots[row] = builder.add(dots[row], builder.call(multiply, [steps, two]))
        return dots


_BLOCKS = {"vnni": _Vnni, "small": _Small, "widened": _Widened}
# By outputs at once: unsigned by signed bytes, and shorts, multiplied and the products of two added up.
_PAIRS_OF_BYTES = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}
_PAIRS_OF_SHORTS = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
