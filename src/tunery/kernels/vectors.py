"""Vector instructions for compiled loops, written in LLVM's language: numba has no names for them, and LLVM keeps no
block of sums in registers over numba's own loops.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

INT8, INT16, INT32, INT64, FLOAT = (*map(ir.IntType, (8, 16, 32, 64)), ir.FloatType())


class Writer:
    """Writes instructions on vectors of `lanes` float32. Addresses and numbers are 64-bit integers."""

    def __init__(self, builder: Any, lanes: int) -> None:
        self.builder, self.lanes = builder, lanes
        self.ints, self.floats = ir.VectorType(INT32, lanes), ir.VectorType(FLOAT, lanes)
        self.zeros = ir.Constant(self.floats, [0.0] * lanes)

    def instruction(self, name: str, gives: Any, takes: list[Any]) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(gives, takes), name)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a · b + c, lane by lane."""
        fma = self.instruction(f"llvm.fma.v{self.lanes}f32", self.floats, [self.floats] * 3)
        return self.builder.call(fma, [a, b, c])

    def total(self, value: Any) -> Any:
        """The sum of all lanes, in any order."""
        add = self.instruction(f"llvm.vector.reduce.fadd.v{self.lanes}f32", FLOAT, [FLOAT, self.floats])
        return self.builder.call(add, [ir.Constant(FLOAT, 0.0), value], fastmath=("reassoc",))

    def bfloats(self, address: Any) -> Any:
        """The bfloat16 that stand there as float32."""
        builder = self.builder
        halves = self.load(address, ir.VectorType(INT16, self.lanes), 2)
        bits = builder.shl(builder.zext(halves, self.ints), ir.Constant(self.ints, [16] * self.lanes))
        return builder.bitcast(bits, self.floats)

    def splat(self, value: Any) -> Any:
        """One number in every lane."""
        builder = self.builder
        nothing = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        first = builder.insert_element(nothing, value, ir.Constant(INT32, 0))
        return builder.shuffle_vector(first, nothing, ir.Constant(self.ints, [0] * self.lanes))

    def load(self, address: Any, kind: Any, align: int) -> Any:
        value: Any = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        value.align = align
        return value

    def fetch(self, address: Any) -> None:
        """Ask for memory that will be read. It need not exist."""
        pointer = INT8.as_pointer()
        fetch = self.instruction("llvm.prefetch.p0", ir.VoidType(), [pointer, INT32, INT32, INT32])
        to_read, keep, data = (ir.Constant(INT32, value) for value in (0, 3, 1))
        self.builder.call(fetch, [self.builder.inttoptr(address, pointer), to_read, keep, data])

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = 4

    def at(self, base: Any, offset: int) -> Any:
        return self.builder.add(base, self.number(offset))

    def row(self, base: Any, stride: Any, index: int) -> Any:
        return self.builder.add(base, self.builder.mul(stride, self.number(index)))

    def number(self, value: int) -> Any:
        return ir.Constant(INT64, value)


def _to_address() -> Any:
    @intrinsic
    def address(typing_context: Any, array: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = context.make_array(signature.args[0])(context, builder, args[0])
            return builder.ptrtoint(made.data, context.get_value_type(types.int64))

        return types.int64(array), generate

    return address


address_of = _to_address()
"""Of an array's first element."""
