"""Reads the assignments of a Python file without running it: plain values, and arithmetic on them.

Nothing in the file is executed, and reading it is quick: it refuses expressions whose value would be huge.
"""

import ast
import operator
import warnings
from typing import Any

from mloptimizer.core.errors import UsageError

_POSSIBLE = (
    "Possible: NAME = VALUE with numbers, texts, True, False, None, tuples and lists, + - * / // % ** on numbers, + on "
    "texts or lists, and names assigned above"
)
_MOST_BITS = 1024  # of a whole number
_MOST_PARTS = 100_000  # of a text, tuple or list
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_WORDS = {"JoinedStr": "f-string", "ImportFrom": "import", "FunctionDef": "function"}  # for names of nodes


def read_assignments(source: bytes, place: str) -> dict[str, tuple[object, int]]:
    """Return by name the last value assigned to it and its line, without names that start with ``_``.

    Raises:
        UsageError: names the line that is not Python, does not assign a plain value, or would make a huge one.
    """
    found: dict[str, tuple[object, int]] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown escapes in texts
            statements = ast.parse(source).body
        for statement in statements:
            _read(statement, found)
    except _RefusedError as refused:
        raise UsageError(f"{place}, line {refused.args[0].lineno}: {refused.args[1]}. {_POSSIBLE}.") from None
    except SyntaxError as error:
        where = f"{place}, line {error.lineno}" if error.lineno else place
        raise UsageError(f"{where}: {error.msg}. Correct it, or remove the file.") from error
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes; too deep nesting
        reason = str(error) if isinstance(error, ValueError) else "is nested too deeply"
        raise UsageError(f"{place}: {reason}. Correct it, or remove the file.") from error
    return {name: value for name, value in found.items() if not name.startswith("_")}


class _RefusedError(Exception):
    """A node of the file, and why it is refused."""


def _not_read(node: ast.AST) -> _RefusedError:
    kind = type(node).__name__
    return _RefusedError(node, f"this ({_WORDS.get(kind, kind.lower())}) is refused: the file is read, not run")


def _read(statement: ast.stmt, found: dict[str, tuple[object, int]]) -> None:
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):  # a docstring
            return
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
            result = _evaluate(value, found)
        case _:
            raise _not_read(statement.value if isinstance(statement, ast.Expr) else statement)
    for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
        if not isinstance(target, ast.Name):
            raise _RefusedError(target, "only a name can be assigned to")
        found[target.id] = result, statement.lineno


def _evaluate(node: ast.expr, found: dict[str, tuple[object, int]]) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.Name(id=name):
            if name not in found:
                raise _RefusedError(node, f"'{name}' is not assigned above")
            return found[name][0]
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            values = [_evaluate(part, found) for part in parts]
            return values if isinstance(node, ast.List) else tuple(values)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
            return _calculate(node, ast.Add if isinstance(sign, ast.UAdd) else ast.Sub, 0, _evaluate(operand, found))
        case ast.BinOp(left=left, op=op, right=right):
            return _calculate(node, type(op), _evaluate(left, found), _evaluate(right, found))
    raise _not_read(node)


def _calculate(node: ast.expr, op: type[ast.operator], left: Any, right: Any) -> Any:
    if op is ast.Add and type(left) is type(right) and isinstance(left, (str, tuple, list)):
        if len(left) + len(right) > _MOST_PARTS:
            raise _RefusedError(node, "the value is too long")
        return left + right
    if op not in _OPERATORS or not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
        raise _RefusedError(node, "this cannot be computed")
    bits = 0
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if op is ast.Pow else left.bit_length() + right.bit_length()
    try:
        result = _OPERATORS[op](left, right) if bits <= _MOST_BITS else None
    except ArithmeticError as error:
        raise _RefusedError(node, "division by zero" if right == 0 else "the number is too large") from error
    if not isinstance(result, (int, float)):  # a negative number has no real root
        raise _RefusedError(node, "the number is not real" if result is not None else "the number is too large")
    return result
