"""No function of the server takes or returns data without a type, but where a comment says why."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

from framefarm.server import schema

SERVER = Path(schema.__file__).parent
FILES = sorted(p for p in SERVER.rglob("*.py") if "migrations" not in p.parts and p.name != "json_types.py")
CONTAINERS = {
    "AsyncIterator", "Collection", "Iterable", "Iterator", "Mapping", "MutableMapping", "Optional",
    "Sequence", "deque", "defaultdict", "dict", "frozenset", "list", "set", "tuple",
}  # fmt: skip


def untyped(source: str) -> list[str]:
    """`line: name` of parameters and returns whose type holds Any, and whose line ends without a comment."""
    explained = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        a = node.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]
        named = [(a.arg, a.annotation) for a in arguments] + [("return", node.returns)]
        for name, annotation in named:
            if annotation is None or not _is_free(annotation):
                continue
            if (annotation.end_lineno or annotation.lineno) not in explained:
                found.append(f"{annotation.lineno}: {node.name}({name})")
    return found


def _is_free(annotation: ast.expr) -> bool:
    """Whether the type is Any or a container of Any. Callables and SQL expressions are not data."""
    if isinstance(annotation, ast.Subscript):
        outer = ast.unparse(annotation.value).rpartition(".")[2]
        return outer in CONTAINERS and _is_free(annotation.slice)
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _is_free(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Tuple):
        return any(_is_free(element) for element in annotation.elts)
    if isinstance(annotation, ast.BinOp):
        return _is_free(annotation.left) or _is_free(annotation.right)
    return ast.unparse(annotation) in {"Any", "typing.Any"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SERVER)))
def test_every_parameter_and_return_has_a_type(path: Path) -> None:
    assert untyped(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(row: Any) -> int: ...", 1),
        ("def f(row: dict[str, Any] | None) -> Any: ...", 2),
        ("def f(*rows: Any, **values: Any) -> int: ...", 2),
        ("def f(rows: Sequence[Any]) -> Mapping[str, Any]: ...", 2),
        ("def f(row: 'dict[str, Any]') -> tuple[int, list[Any]]: ...", 2),
        ("def f(row: Any = '# no comment') -> int: ...", 1),
        ("def f(row: Any) -> int:  # free: a scene's own\n    ...", 0),
        ("def f(work: Callable[..., Any]) -> int: ...", 0),
        ("def f(row: JobRow) -> Answer: ...", 0),
    ],
)
def test_the_lint_finds_untyped_data(source: str, count: int) -> None:
    assert len(untyped(source)) == count
