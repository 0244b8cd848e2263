"""Chat templates in jinja2's immutable sandbox, with bounded time and memory.

A template comes from a model file, so from a stranger. The sandbox keeps it from Python; it does not keep it from running
for hours or filling the memory. Here a render counts its work: every loop pass, call, filter, operator and output is
charged with the size of what it touches before it runs, and constructs whose cost cannot be told before are refused.
All state of a render lives in its own environment, so renders of several threads do not meet.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from types import BuiltinMethodType, CodeType, MethodType
from typing import Any

import jinja2
import markupsafe
from jinja2 import nodes
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace

from tritium.engine.template_syntax import WHERE, Charging, Generation, refused
from tritium.errors import FormatError, ShapeError, TritiumError, UnsupportedError

MAX_TEMPLATE_BYTES = 64 << 10
MAX_OUTPUT_CHARS = 1 << 20
MAX_SECONDS = 2.0
# One unit is one step, one item or 32 characters; with these figures a render stays below about 128 MB and two seconds.
MAX_UNITS = 1_000_000
_CHARS_PER_UNIT = 32
_MAX_STRING = 2 * MAX_OUTPUT_CHARS
_MAX_INT_BITS = 4096
_MAX_DEPTH = 32
_MAX_NEEDLE = 256

_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length"),
    *("list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sort"),
    *("string", "title", "trim", "unique", "upper"),
)
_SORTS = frozenset({"sort", "dictsort"})
# Tests that look only at a value's type; the others compare it or turn it into text.
_TYPE_TESTS = frozenset(
    {
        *("defined", "undefined", "none", "boolean", "false", "true", "integer", "float", "string", "mapping"),
        *("number", "sequence", "iterable", "callable", "filter", "test", "sameas"),
    }
)
_TESTS = _TYPE_TESTS | frozenset(
    {
        *("in", "eq", "==", "equalto", "ne", "!=", "lt", "<", "lessthan", "le", "<=", "gt", ">", "greaterthan"),
        *("ge", ">=", "odd", "even", "divisibleby", "lower", "upper"),
    }
)
_STRING_METHODS = frozenset(
    {
        *("strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "upper", "lower"),
        *("title", "capitalize", "replace", "find", "rfind", "index", "rindex", "count", "partition", "rpartition"),
        *("removeprefix", "removesuffix", "join", "isdigit", "isalpha", "isalnum", "isspace", "isupper", "islower"),
    }
)
_METHODS: dict[type, frozenset[str]] = {
    str: _STRING_METHODS,
    dict: frozenset({"keys", "values", "items", "get"}),
    list: frozenset({"index", "count"}),
    tuple: frozenset({"index", "count"}),
    LoopContext: frozenset(
        {
            *("index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem"),
            *("depth", "depth0", "cycle", "changed"),
        }
    ),
}
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))


def render_template(source: str, variables: Mapping[str, object], *, now: datetime | None = None) -> str:
    """Render one template; ``now`` is what ``strftime_now`` tells, the local time without.

    Errors: FormatError if the template is malformed or fails; UnsupportedError if it asks for what the sandbox refuses or
    for more work than it grants; ShapeError if the template itself refuses its input by ``raise_exception``.
    """
    if len(source.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
        raise UnsupportedError(
            "chat template too long", where=WHERE, expected=f"at most {MAX_TEMPLATE_BYTES} bytes", got=len(source)
        )
    try:
        code = _compile(source)
        environment = BoundedEnvironment(now)
        for value in variables.values():
            environment.charge(value)
        template = jinja2.Template.from_code(environment, code, environment.globals)
        pieces: list[str] = []
        n_chars = 0
        for piece in template.root_render_func(template.new_context(dict(variables))):
            n_chars += len(piece)
            if n_chars > MAX_OUTPUT_CHARS:
                raise refused("writes too much", f"at most {MAX_OUTPUT_CHARS} characters")
            pieces.append(piece)
        return "".join(pieces)
    except TritiumError:
        raise
    except (RecursionError, MemoryError):
        raise refused("nests too deeply", "no deep recursion") from None
    except (jinja2.TemplateAssertionError, jinja2.exceptions.SecurityError) as error:
        raise refused(f"asks for what the sandbox refuses: {_line(error)}") from None
    except Exception as error:
        # Whatever a stranger's template raises is that template's failure.
        raise FormatError(f"chat template failed: {type(error).__name__}: {_line(error)}", where=WHERE) from None


def _line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:200]


@lru_cache(maxsize=16)
def _compile(source: str) -> CodeType:
    return BoundedEnvironment(None).compile(source)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The environment of one render: what it may call, and how much work is left to it."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, now: datetime | None) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            cache_size=0,
            finalize=self._finalize,
            extensions=["jinja2.ext.loopcontrols", Generation],
        )
        self._now = now
        self._left = MAX_UNITS
        self._deadline = time.monotonic() + MAX_SECONDS
        functions = {
            "range": range,
            "namespace": Namespace,
            "dict": dict,
            "raise_exception": _raise_exception,
            "strftime_now": self._strftime_now,
        }
        self._functions = list(functions.values())
        self.globals.clear()
        self.globals.update(functions)
        own: dict[str, Callable[..., Any]] = {
            "join": self._join,
            "replace": self._replace,
            "indent": self._indent,
            "tojson": self._tojson,
        }
        plain: dict[str, Callable[..., Any]] = {"safe": str, "escape": _escape, "e": _escape}
        library: dict[str, Callable[..., Any]] = {name: FILTERS[name] for name in _FILTERS}
        self.filters = {name: self._bounded(name, call) for name, call in {**library, **plain, **own}.items()}
        self.filters["_charge"] = self._charged
        self.filters["_loop"] = self._counted
        tests: Mapping[str, Callable[..., Any]] = TESTS  # type: ignore[assignment]
        self.tests = {name: self._bounded(name, tests[name], name in _TYPE_TESTS) for name in sorted(_TESTS)}

    def charge(self, value: object, *, times: float = 1, opaque: bool = False) -> None:
        """Pay for touching ``value``. Errors: UnsupportedError if it is too large, or the work granted is done."""
        self._pay(times * self._cost(value, 0, opaque))

    def _pay(self, units: float) -> None:
        self._left -= int(units)
        if self._left < 0 or time.monotonic() > self._deadline:
            raise refused("does not end", f"at most {MAX_UNITS} steps and {MAX_SECONDS:g} seconds")

    def _cost(self, value: object, depth: int, opaque: bool = False) -> int:
        """The size of ``value`` in units, written out in full: a part that occurs twice counts twice."""
        if isinstance(value, str):
            if len(value) > _MAX_STRING:
                raise refused("builds too long a text", f"at most {_MAX_STRING} characters")
            return 1 + len(value) // _CHARS_PER_UNIT
        if isinstance(value, int):
            if value.bit_length() > _MAX_INT_BITS:
                raise refused("builds too large a number", f"at most {_MAX_INT_BITS} bits")
            return 1
        if value is None or isinstance(value, (float, Undefined)):
            return 1
        if isinstance(value, range):
            return 1 + len(value)
        if isinstance(value, (list, tuple, dict, *_VIEWS)):
            if depth == _MAX_DEPTH:
                raise refused("nests values too deeply", f"at most {_MAX_DEPTH} levels")
            total = 1
            parts: Iterable[Any] = value.items() if isinstance(value, dict) else value  # type: ignore[assignment]
            for item in parts:
                total += self._cost(item, depth + 1)
                if total > self._left:
                    break
            return total
        if depth == 0 and (opaque or isinstance(value, Iterator)):
            return 1
        raise refused(f"uses a {type(value).__name__} as a value")

    @jinja2.pass_context
    def _finalize(self, _context: Context, value: object) -> object:
        self.charge(value)
        return value

    def _charged(self, value: object) -> object:
        self.charge(value)
        return value

    def _counted(self, values: Iterable[object]) -> Iterator[object]:
        """Pay for each item when it is taken."""
        if isinstance(values, Undefined):
            return iter(values)
        return self._counting(iter(values))

    def _counting(self, values: Iterator[object]) -> Iterator[object]:
        for value in values:
            self._pay(1)
            yield value

    def _bounded(self, name: str, function: Callable[..., Any], opaque: bool = False) -> Callable[..., Any]:
        """Wrap a filter or test of the library: pay for its arguments, then for its result."""
        passed = getattr(function, "jinja_pass_arg", None)

        def bounded(*args: Any, **kwargs: Any) -> Any:
            for value in (*args[passed is not None :], *kwargs.values()):
                self.charge(value, times=20 if name in _SORTS else 1, opaque=opaque)
            if name == "trim" and len(args) + len(kwargs) > 1:
                _check_needles(args[1:], kwargs)
            result = function(*args, **kwargs)
            if isinstance(result, Iterator):
                return self._counting(result)
            self.charge(result)
            return result

        if passed is not None:
            bounded.jinja_pass_arg = passed  # type: ignore[attr-defined]
        return bounded

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        result: nodes.Template = Charging().visit(tree)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Check the size of the result before the operator builds it."""
        self.charge(left)
        self.charge(right)
        if operator == "*":
            for text, factor in ((left, right), (right, left)):
                if isinstance(text, (str, list, tuple)) and isinstance(factor, int):
                    self._check_length(len(text) * factor)
                    self.charge(text, times=max(factor, 0))
        elif operator == "**" and not (isinstance(right, (int, float)) and abs(right) <= 64):
            raise refused("raises to a large power", "an exponent of at most 64")
        elif operator == "%" and isinstance(left, str):
            raise refused("formats with %")
        result = super().call_binop(context, operator, left, right)
        self.charge(result)
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow the attributes in the table, and those of a namespace."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        return isinstance(obj, Namespace) or attr in _METHODS.get(type(obj), frozenset())

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Refuse at once: an undefined value would print as nothing."""
        raise refused(f"reads the attribute {attribute[:80]} of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Leave ``str.format`` unwrapped: the table of methods does not hold it."""
        return None

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call what the tables allow, after paying for its arguments."""
        self, function = __self, __obj
        given = (*args, *(value for key, value in kwargs.items() if key not in ("_loop_vars", "_block_vars", "caller")))
        for value in given:
            self.charge(value, opaque=True)
        self._pay(1)
        if isinstance(function, LoopContext):
            args = (self._counted(args[0]), *args[1:])
        elif isinstance(function, (BuiltinMethodType, MethodType)) and function not in self._functions:
            owner = function.__self__
            if function.__name__ not in _METHODS.get(type(owner), ()):
                raise refused(f"calls the method {function.__name__} of a {type(owner).__name__}")
            if not isinstance(owner, LoopContext):
                self.charge(owner)
            if isinstance(owner, str):
                args = self._check_string_call(owner, function.__name__, args, kwargs)
        elif isinstance(function, Undefined):
            return function()
        elif not isinstance(function, Macro) and function not in self._functions:
            raise refused(f"calls a {type(function).__name__}")
        result = super().call(__context, function, *args, **kwargs)
        self.charge(result, opaque=True)
        return result

    def _check_string_call(
        self, text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """Bound one call of a string method; returns its arguments, iterators made into lists."""
        if name == "join" and args:
            items = list(self._counted(args[0]))
            self._check_length(len(items) * len(text))
            self.charge(items)
            return (items, *args[1:])
        _check_needles(args[:1] if name == "replace" else args, kwargs)
        if name == "replace" and len(args) > 1 and all(isinstance(value, str) for value in args[:2]):
            self._check_length(len(text) + len(args[1]) * text.count(args[0]))
        return args

    def _check_length(self, n_items: int) -> None:
        if n_items > _MAX_STRING:
            raise refused("builds too long a text", f"at most {_MAX_STRING} characters")

    def _join(self, value: Iterable[object], d: str = "", attribute: str | int | None = None) -> str:
        """The filter ``join``."""
        if attribute is not None:
            value = (self.getitem(item, attribute) for item in value)
        items = [str(self._charged(item)) for item in value]
        self._check_length(len(items) * len(d))
        return str(d).join(items)

    def _replace(self, value: object, old: str, new: str, count: int = -1) -> str:
        """The filter ``replace``."""
        text, old, new = str(value), str(old), str(new)
        self._check_length(len(text) + len(new) * text.count(old))
        return text.replace(old, new, count)

    def _indent(self, value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        """The filter ``indent``."""
        margin = width if isinstance(width, str) else " " * min(width, _MAX_NEEDLE)
        lines = value.splitlines(keepends=True)
        self._check_length(len(value) + len(lines) * len(margin))
        return "".join(
            margin + line if (first or i > 0) and (blank or line.strip()) else line for i, line in enumerate(lines)
        )

    def _tojson(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """The filter ``tojson`` as chat templates expect it: no HTML escapes."""
        if indent is not None and not 0 <= indent <= 8:
            raise refused("indents JSON too far", "at most 8 columns")
        if separators is not None:
            _check_needles(tuple(separators), {})
        # Indentation is paid for at the deepest level allowed.
        self.charge(value, times=1 if indent is None else 8)
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def _strftime_now(self, form: str) -> str:
        """The function ``strftime_now``."""
        if len(form) > _MAX_NEEDLE or re.search("%(?![A-Za-z%])", form):
            raise refused("formats the date oddly", "plain %-letters")
        return (self._now or datetime.now()).strftime(form)


def _check_needles(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Searching or stripping may cost the product of both lengths, so one is kept short."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, str) and len(value) > _MAX_NEEDLE:
            raise refused("searches for a long text", f"at most {_MAX_NEEDLE} characters")


def _escape(value: object) -> str:
    return str(markupsafe.escape(str(value)))


def _raise_exception(message: object) -> None:
    raise ShapeError(f"the chat template refuses the messages: {str(message)[:200]}")
