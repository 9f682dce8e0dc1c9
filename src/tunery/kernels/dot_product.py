"""The processor's product of unsigned and signed bytes (VNNI), for compiled loops.

One instruction multiplies four bytes of 16 (AVX-512) or 8 (AVX) outputs by four bytes of an input and adds them up in
32 bits: four times what it could do in float32. numba has no name for it, so the innermost block is written in LLVM's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

GROUP = 32  # weights and inputs that share a scale
INT8, INT16, INT32, INT64, FLOAT = (*map(ir.IntType, (8, 16, 32, 64)), ir.FloatType())


def _num_lanes() -> int:
    """Outputs that the processor computes at once; 0 where it has no such instruction."""
    given: Any = config  # numba makes its names at import
    features = (get_host_cpu_features() if given.CPU_NAME is None else given.CPU_FEATURES or "").split(",")
    if "+avx512vnni" in features:
        return 16
    return 8 if "+avxvnni" in features else 0


LANES = _num_lanes()
AHEAD = 4096  # bytes; without asking for them so early a step waits a third longer for its weights
# Rows computed together: each weight is read once for all of them, and as many sums fit into the registers.
MOST_ROWS = 8 if LANES == 16 else 4


class Operands(NamedTuple):
    """Addresses, and the number G of groups: what a block product works on."""

    steps: Any  # [G, GROUP / 4, LANES, 4] uint8
    scales: Any  # [G, LANES] bfloat16: a weight is step · scale + low
    lows: Any  # [G, LANES] bfloat16
    inputs: Any  # [rows, G, GROUP] int8
    input_scales: Any  # [rows, G] fp32: an input is integer · scale
    input_sums: Any  # [rows, G] fp32: of a group's inputs
    out: Any  # [rows, LANES] fp32
    num_groups: Any


def block_product(num_rows: int) -> Callable[..., None]:
    """A function for compiled loops that computes LANES outputs of so many rows. It takes Operands, one by one."""

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
            _Block(builder, num_rows, Operands(*args)).build()
            return context.get_dummy_value()

        return types.void(*[types.int64] * len(Operands._fields)), generate

    return product


class _Block:
    """Writes the instructions."""

    def __init__(self, builder: Any, num_rows: int, operands: Operands) -> None:
        self.builder, self.num_rows, self.operands = builder, num_rows, operands
        self.ints, self.floats = ir.VectorType(INT32, LANES), ir.VectorType(FLOAT, LANES)
        of_ints, of_floats = (ir.FunctionType(kind, [kind] * 3) for kind in (self.ints, self.floats))
        # LLVM's name of the 256-bit form is the same with and without AVX-512.
        self.dot = cgutils.get_or_insert_function(builder.module, of_ints, f"llvm.x86.avx512.vpdpbusd.{32 * LANES}")
        self.fma = cgutils.get_or_insert_function(builder.module, of_floats, f"llvm.fma.v{LANES}f32")

    def build(self) -> None:
        builder = self.builder
        zeros = ir.Constant(self.floats, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zeros) for _ in range(self.num_rows)]
        with cgutils.for_range(builder, self.operands.num_groups) as loop:
            self._add_group(loop.index, sums)
        for row, total in enumerate(sums):
            self._store(builder.load(total), self._at(self.operands.out, row * LANES * 4))

    def _add_group(self, group: Any, sums: list[Any]) -> None:
        builder = self.builder
        scale, low = self._bfloats(self.operands.scales, group), self._bfloats(self.operands.lows, group)
        for row, (dot, total) in enumerate(zip(self._dots(group), sums, strict=True)):
            place = builder.mul(builder.add(builder.mul(self.operands.num_groups, self._int(row)), group), self._int(4))
            input_scale, input_sum = (
                self._splat(self._load(builder.add(base, place), FLOAT, 4))
                for base in (self.operands.input_scales, self.operands.input_sums)
            )
            scaled = builder.fmul(builder.sitofp(dot, self.floats), scale)
            value = builder.call(self.fma, [scaled, input_scale, builder.load(total)])
            builder.store(builder.call(self.fma, [low, input_sum, value]), total)

    def _dots(self, group: Any) -> list[Any]:
        """The integer sums of a group, for each row."""
        builder = self.builder
        dots = [ir.Constant(self.ints, [0] * LANES)] * self.num_rows
        steps = builder.add(self.operands.steps, builder.mul(group, self._int(GROUP * LANES)))
        width = builder.mul(self.operands.num_groups, self._int(GROUP))
        first = builder.add(self.operands.inputs, builder.mul(group, self._int(GROUP)))
        for offset in range(0, GROUP, 4):
            weights = self._load(self._at(steps, offset * LANES), self.ints, 4 * LANES)
            self._fetch(self._at(steps, offset * LANES + AHEAD))
            for row in range(self.num_rows):
                place = builder.add(first, builder.mul(width, self._int(row)))
                four = self._splat(self._load(self._at(place, offset), INT32, 4))
                dots[row] = builder.call(self.dot, [dots[row], weights, four])
        return dots

    def _bfloats(self, base: Any, group: Any) -> Any:
        """LANES bfloat16 as float32."""
        builder = self.builder
        place = builder.add(base, builder.mul(group, self._int(2 * LANES)))
        halves = self._load(place, ir.VectorType(INT16, LANES), 2 * LANES)
        bits = builder.shl(builder.zext(halves, self.ints), ir.Constant(self.ints, [16] * LANES))
        return builder.bitcast(bits, self.floats)

    def _splat(self, value: Any) -> Any:
        builder = self.builder
        nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
        first = builder.insert_element(nothing, value, ir.Constant(INT32, 0))
        return builder.shuffle_vector(first, nothing, ir.Constant(self.ints, [0] * LANES))

    def _load(self, address: Any, kind: Any, align: int) -> Any:
        value: Any = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        value.align = align
        return value

    def _fetch(self, address: Any) -> None:
        """Ask for memory that will be read. It need not exist."""
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, INT32, INT32, INT32])
        fetch = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        to_read, keep, data = (ir.Constant(INT32, value) for value in (0, 3, 1))
        self.builder.call(fetch, [self.builder.inttoptr(address, pointer), to_read, keep, data])

    def _store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = 4

    def _at(self, base: Any, offset: int) -> Any:
        return self.builder.add(base, self._int(offset))

    def _int(self, value: int) -> Any:
        return ir.Constant(INT64, value)
