"""What a chat template may be made of, and where its syntax tree is charged for the work it asks for."""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from tritium.errors import UnsupportedError

MAX_NODES = 10_000
WHERE = "tokenizer.chat_template"

_STATEMENTS = (
    *(nodes.Template, nodes.Output, nodes.For, nodes.If, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.With),
    *(nodes.Assign, nodes.AssignBlock, nodes.Break, nodes.Continue, nodes.Scope),
)


def refused(what: str, expected: str | None = None) -> UnsupportedError:
    """The error for a template that does what is not granted."""
    return UnsupportedError(f"chat template {what}", where=WHERE, expected=expected)


class Generation(Extension):
    """``{% generation %}``, by which training code marks the model's own text; here it only holds its body."""

    tags = {"generation"}  # noqa: RUF012 - the name and type are the library's

    def parse(self, parser: Parser) -> nodes.Node:
        scope = nodes.Scope(lineno=next(parser.stream).lineno)
        scope.body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return scope


class Charging(NodeTransformer):
    """Puts the filter ``_charge`` before each operation that the environment could not intercept otherwise."""

    def __init__(self) -> None:
        self.n_nodes = 0

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self.n_nodes += 1
        if self.n_nodes > MAX_NODES:
            raise refused("is too long", f"at most {MAX_NODES} syntax nodes")
        if isinstance(node, nodes.Stmt) and not isinstance(node, _STATEMENTS):
            raise refused(f"uses the statement {type(node).__name__.lower()}")
        return super().visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - named after the node
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_loop", [], [], None, None, lineno=node.lineno)
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        # Plain data is written without asking the environment; a constant is not.
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_charged(item) for item in node.nodes]
        return _charged(node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _charged(node.expr)
        for operand in node.ops:
            operand.expr = _charged(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _charged(node.node)
        elif not isinstance(node.arg, nodes.Const):
            node.arg = _charged(node.arg)
        return node

    def _visit_literal(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else _charged(node)

    visit_List = visit_Dict = visit_Tuple = _visit_literal  # noqa: N815


def _charged(node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, "_charge", [], [], None, None, lineno=node.lineno)
