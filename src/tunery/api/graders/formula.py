"""`calculate_output` of a multi grader: arithmetic over the names of its graders, and nothing else."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from tunery.texts import Text, say

BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # of floats: raises on overflow instead of computing a giant integer
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}


class FormulaError(ValueError):
    """The formula cannot be read or computed; `problem` says where, in the catalogue's words."""

    def __init__(self, problem: Text) -> None:
        super().__init__(problem)
        self.problem = problem


def parse(text: str) -> ast.expr:
    """Raises FormulaError. `^` is power, as in OpenAI's formulas."""
    try:
        return ast.parse(text.replace("^", "**").strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise FormulaError(say("error.formula_unreadable", formula=repr(text))) from exc


def names(node: ast.expr) -> set[str]:
    """The variables that the formula uses."""
    used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return used - set(FUNCTIONS)


def evaluate(node: ast.expr, values: dict[str, float]) -> float:
    try:
        result = float(_value(node, values))
    except (ArithmeticError, ValueError, RecursionError, TypeError) as exc:
        raise FormulaError(say("error.formula_impossible", reason=str(exc))) from exc
    if not math.isfinite(result):
        raise FormulaError(say("error.formula_not_finite"))
    return result


def check(node: ast.expr) -> None:
    """Raises FormulaError when the formula holds anything but numbers, names, arithmetic and known functions."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            if not isinstance(part.func, ast.Name) or part.func.id not in FUNCTIONS or part.keywords:
                raise FormulaError(say("error.formula_functions", names=", ".join(FUNCTIONS)))
        elif isinstance(part, ast.Constant):
            if isinstance(part.value, bool) or not isinstance(part.value, int | float):
                raise FormulaError(say("error.formula_numbers_only"))
        elif not isinstance(part, ast.BinOp | ast.UnaryOp | ast.Name | ast.Load | ast.unaryop | ast.operator):
            raise FormulaError(say("error.formula_forbidden", part=type(part).__name__))


def _value(node: ast.expr, values: dict[str, float]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, values)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        return BINARY[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        # floor and ceil of a float are integers without bounds: everything stays a float.
        return float(FUNCTIONS[node.func.id](*(_value(argument, values) for argument in node.args)))
    raise FormulaError(say("error.formula_no_value", part=repr(ast.unparse(node))))
