"""Reads the assignments of a Python file without running it: plain values, and arithmetic on them.

Nothing that the file holds is executed, and nothing in it takes long: what would become huge is refused.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from mloptimizer.core.errors import UsageError

POSSIBLE = "Possible: NAME = VALUE with numbers, texts, True, False, None, tuples, lists, + - * / // % ** of numbers, "
POSSIBLE += "texts or lists joined with +, and names assigned above"
_MOST_BITS = 1024  # of a whole number
_MOST_PARTS = 100_000  # of a text, tuple or list
_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_WORDS = {
    "Import": "an import",
    "ImportFrom": "an import",
    "Call": "a call",
    "Attribute": "an attribute",
    "If": "a condition",
    "For": "a loop",
    "FunctionDef": "a function",
    "JoinedStr": "an f-string",
}


class _Refused(Exception):  # noqa: N818  (it becomes a UsageError with the place)
    """What a node of the file must not be."""

    def __init__(self, node: Any, reason: str) -> None:
        super().__init__(reason)
        self.line = node.lineno


def read_assignments(source: bytes, place: str) -> dict[str, tuple[object, int]]:
    """Return by name the last value that is assigned to it, and the line; names that start with ``_`` are left out.

    Raises:
        UsageError: with its line, what is no assignment of a plain value, is not Python, or would be huge.
    """
    found: dict[str, tuple[object, int]] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown escapes in texts
            statements = ast.parse(source).body
        for statement in statements:
            _read(statement, found)
    except _Refused as refused:
        raise UsageError(f"{place}, line {refused.line}: {refused}. {POSSIBLE}.") from None
    except SyntaxError as error:
        where = f"{place}, line {error.lineno}" if error.lineno else place
        raise UsageError(f"{where}: {error.msg}. Correct it, or remove the file.") from error
    except (ValueError, RecursionError, MemoryError) as error:  # of NUL bytes, and of what is nested too deeply
        reason = str(error) if isinstance(error, ValueError) else "is nested too deeply"
        raise UsageError(f"{place}: {reason}. Correct it, or remove the file.") from error
    return {name: value for name, value in found.items() if not name.startswith("_")}


def _read(statement: ast.stmt, found: dict[str, tuple[object, int]]) -> None:
    targets: list[ast.expr]
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):  # a docstring
            return
        case ast.Assign(targets=targets, value=value):
            pass
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            targets = [target]
        case _:
            raise _not_read(statement.value if isinstance(statement, ast.Expr) else statement)
    result = _evaluate(value, found)
    for one in targets:
        if not isinstance(one, ast.Name):
            raise _Refused(one, "only a name can be assigned to")
        found[one.id] = result, statement.lineno


def _not_read(node: ast.AST) -> _Refused:
    return _Refused(node, f"{_WORDS.get(type(node).__name__, 'this')} is refused: the file is read, not run")


def _evaluate(node: ast.expr, found: Mapping[str, tuple[object, int]]) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.Name(id=name) if name in found:
            return found[name][0]
        case ast.Name(id=name):
            raise _Refused(node, f"'{name}' is not assigned above")
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            values = [_evaluate(part, found) for part in parts]
            return values if isinstance(node, ast.List) else tuple(values)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _calculate(node, ast.Add(), 0, _evaluate(operand, found))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _calculate(node, ast.Sub(), 0, _evaluate(operand, found))
        case ast.BinOp(left=left, op=op, right=right):
            return _calculate(node, op, _evaluate(left, found), _evaluate(right, found))
        case _:
            raise _not_read(node)


def _calculate(node: ast.expr, op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(op, ast.Add) and type(left) is type(right) and isinstance(left, (str, tuple, list)):
        if len(left) + len(right) > _MOST_PARTS:
            raise _Refused(node, "the value is too long")
        return left + right
    if type(op) not in _OPERATORS or not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
        raise _Refused(node, "this cannot be computed")
    if isinstance(left, int) and isinstance(right, int) and isinstance(op, (ast.Mult, ast.Pow)):
        digits = left.bit_length()
        if (digits * right if isinstance(op, ast.Pow) else digits + right.bit_length()) > _MOST_BITS:
            raise _Refused(node, "the number is too large")
    try:
        result = _OPERATORS[type(op)](left, right)
    except ArithmeticError as error:
        raise _Refused(node, "division by zero" if right == 0 else "the number is too large") from error
    if isinstance(result, complex):
        raise _Refused(node, "the number is not real")
    return result
