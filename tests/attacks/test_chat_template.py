"""Chat templates that try to get out, run on, or fill the memory: one clear refusal each, soon and cheaply."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from tritium.engine.template import render_template
from tritium.errors import FormatError, TritiumError, UnsupportedError

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
GROW = "{{% set ns = namespace(s={seed}) %}}{{% for i in range(9999) %}}{{% set ns.s = {step} %}}{{% endfor %}}{{{{ ns.s }}}}"

ESCAPES = {
    "class": ("{{ ''.__class__.__mro__ }}", "attribute __class__ of a str"),
    "class by item": ("{{ ''['__class__'] }}", "attribute __class__"),
    "class of messages": ("{{ messages.__class__ }}", "attribute __class__ of a list"),
    "class by map": ("{{ messages | map(attribute='__class__') | list }}", "attribute __class__"),
    "globals": ("{{ raise_exception.__globals__ }}", "attribute __globals__"),
    "init": ("{{ namespace.__init__.__globals__ }}", "attribute __init__"),
    "self": ("{{ strftime_now.__self__ }}", "attribute __self__"),
    "subclasses": ("{{ range.mro() }}", "attribute mro"),
    "template": ("{{ self.__init__ }}", "attribute __init__"),
    "macro": ("{% macro m() %}{% endmacro %}{{ m._environment }}", "attribute _environment of a Macro"),
    "loop": ("{% for x in [1] %}{{ loop._iterator }}{% endfor %}", "attribute _iterator"),
    "format": ("{{ '{0.__class__}'.format(1) }}", "attribute format of a str"),
    "format_map": ("{{ '{x}'.format_map({'x': 1}) }}", "attribute format_map"),
    "change": ("{{ messages.append(1) }}", "attribute append of a list"),
    "attr": ("{{ messages | attr('pop') }}", "No filter named 'attr'"),
    "call": ("{{ 'x'() }}", "calls a str"),
    "include": ("{% include '/etc/passwd' %}", "statement include"),
    "import": ("{% import 'os' as os %}", "statement import"),
    "from": ("{% from 'os' import x %}", "statement fromimport"),
    "extends": ("{% extends 'x' %}", "statement extends"),
    "markup": ("{% autoescape true %}{% endautoescape %}", "statement"),
}
BOMBS = {
    "nested loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "long range": "{% for a in range(10 ** 12) %}{% endfor %}",
    "filtered loop": "{% for x in range(99999) if x > 99999 %}{% endfor %}" * 99,
    "string times number": "{{ 'a' * 10 ** 9 }}",
    "number times list": "{{ 10 ** 9 * [1] }}",
    "power": "{{ 9 ** 9 ** 64 ** 64 }}",
    "power of two": "{{ 2 ** 1000000000 }}",
    "product": GROW.format(seed="7", step="ns.s * ns.s"),
    "doubling by +": GROW.format(seed="'0123456789'", step="ns.s + ns.s"),
    "doubling by ~": GROW.format(seed="'0123456789'", step="ns.s ~ ns.s"),
    "doubling by join": GROW.format(seed="'0123456789'", step="[ns.s, ns.s] | join"),
    "doubling by method": GROW.format(seed="'0123456789'", step="''.join([ns.s, ns.s])"),
    "doubling by replace": GROW.format(seed="'0123456789'", step="ns.s | replace('0', '01')"),
    "doubling lists": GROW.format(seed="[1]", step="ns.s + ns.s"),
    "nesting lists": GROW.format(seed="[1]", step="[ns.s, ns.s]"),
    "nesting dicts": GROW.format(seed="{}", step="{1: ns.s, 2: ns.s}"),
    "deep lists": GROW.format(seed="[1]", step="[ns.s]"),
    "hashing tuples": GROW.format(seed="(1,)", step="(ns.s, ns.s)").replace("{{ ns.s }}", "{{ {ns.s: 1} }}"),
    "a namespace in itself": "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
    "endless macro": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "forking macro": "{% macro f(x) %}{{ f(x - 1) ~ f(x - 1) if x }}{% endmacro %}{{ f(64) }}",
    "endless loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "endless call": "{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
    "plain text in a loop": "{% for i in range(99999) %}" + "x" * 60000 + "{% endfor %}",
    "text set in a loop": "{% for i in range(99999) %}{% set x %}" + "x" * 60000 + "{% endset %}{% endfor %}",
    "replace": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "replace filter": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "replace nothing": "{{ ('a' * 1000000).replace('', 'b' * 200) }}",
    "join method": "{{ ('x' * 1000000).join(messages | map('string') | list * 1000) }}",
    "join filter": "{{ range(10000) | join('x' * 1000) }}",
    "indent": "{{ ('a\n' * 100000) | indent(200) }}",
    "indented JSON": "{{ messages | tojson(indent=10 ** 9) }}",
    "printf width": "{{ '%1000000000d' % 1 }}",
    "date width": "{{ strftime_now('%1000000000d') }}",
    "padding": "{{ 'a'.ljust(10 ** 9) }}",
    "centering": "{{ 'a' | center(10 ** 9) }}",
    "slow search": "{{ ('a' * 1000000).rfind('a' * 1000 ~ 'b') }}",
    "slow strip": "{{ ('a' * 1000000).strip('bcd' * 1000) }}",
    "slow trim": "{{ ('a' * 1000000) | trim('bcd' * 1000) }}",
    "sorting": "{% for i in range(9999) %}{{ range(9999) | list | sort }}{% endfor %}",
    "chained generators": "{% for i in range(999) %}{{ range(9999) | select('odd') | reject('odd') | list }}{% endfor %}",
    "comparing": "{% set a = [0] * 90000 %}{% set b = [0] * 90000 %}{% for i in range(9999) %}{{ a == b }}{% endfor %}",
    "membership": "{% for i in range(9999) %}{{ 'x' in range(90000) }}{% endfor %}",
    "slicing": "{% set a = [0] * 90000 %}{% for i in range(9999) %}{% set b = a[1:] %}{% endfor %}",
    "many slices kept": GROW.format(seed="[[0] * 90000]", step="ns.s + [ns.s[0][1:]]"),
    "long names": "{{ lipsum(n=100000) }}",
    "long number": "{{ " + "9" * 60000 + " }}",
    "parentheses": "{{ " + "(" * 30000,
    "long sum": "{{ " + "1+" * 20000 + "1 }}",
    "long path": "{{ a" + ".a" * 30000 + " }}",
    "long filter chain": "{{ a" + "|trim" * 10000 + " }}",
    "many nots": "{{ " + "not " * 15000 + "1 }}",
    "nested ifs": "{% if a %}" * 3000 + "{% endif %}" * 3000,
    "nested fors": "{% for a in b %}" * 40 + "{% endfor %}" * 40,
    "many outputs": "{{a}}" * 13000,
    "open comments": "{#" * 30000,
    "open blocks": "{%" * 30000,
    "open strings": "{{ '" * 15000,
    "too long": " " * 65537,
}


@pytest.mark.parametrize("name", ESCAPES)
def test_no_way_out(name: str) -> None:
    template, message = ESCAPES[name]
    with pytest.raises(UnsupportedError, match=message):
        render_template(template, {"messages": MESSAGES})


@pytest.mark.parametrize("name", BOMBS)
def test_no_bomb_goes_off(name: str) -> None:
    start = time.process_time()
    with pytest.raises((UnsupportedError, FormatError), match="chat template"):
        render_template(BOMBS[name], {"messages": MESSAGES})
    assert time.process_time() - start < 4


@pytest.mark.parametrize(
    "name", ["many slices kept", "doubling by +", "doubling lists", "text set in a loop", "sorting"]
)
def test_memory_stays_bounded(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TritiumError):
            render_template(BOMBS[name], {"messages": MESSAGES})
        assert tracemalloc.get_traced_memory()[1] < 192 << 20
    finally:
        tracemalloc.stop()


def test_long_honest_conversations_fit() -> None:
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content | trim + eos }}{% endfor %}"
    talk = [{"role": "user", "content": "word " * 1000}] * 200
    assert len(render_template(template, {"messages": talk, "eos": "</s>"})) == 200 * (8 + 4999 + 4)
    chatter = [{"role": "user", "content": "ok"}] * 5000
    assert render_template(template, {"messages": chatter, "eos": ""}).count("ok") == 5000


def test_output_is_limited() -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(UnsupportedError, match="writes too much"):
        render_template(template, {"messages": [{"content": "x" * 300_000}] * 4})


def test_templates_share_no_state() -> None:
    counting = "{% for i in range(300000) %}{% endfor %}done"
    for _ in range(5):
        assert render_template(counting, {}) == "done"
