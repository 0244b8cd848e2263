"""Conversations to prompts: the model's own chat template, or the built-in format of its architecture."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tritium.engine.tokenizer import Tokenizer
from tritium.engine.vocabulary import BITNET_CHAT_TEMPLATE, TokenMatcher
from tritium.errors import ShapeError, UnsupportedError

END_OF_TURN = "<|eot_id|>"
_BITNET = frozenset({"bitnet-b1.58", "bitnet-25", "bitnet"})
_ROLE = re.compile("[A-Za-z][A-Za-z0-9_-]{0,31}")
_STAND_INS = range(0xF0000, 0xFFFFE)


def has_chat_format(tokenizer: Tokenizer) -> bool:
    """True if conversations can be written for this model: by its own template, or in the format of BitNet.

    The built-in format needs its end of turn as a token; a small model of the same architecture may lack it.
    """
    is_bitnet = tokenizer.architecture in _BITNET and END_OF_TURN in tokenizer.special_tokens()
    return bool(tokenizer.chat_template) or is_bitnet


def render_chat(
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str | None,
    architecture: str,
    bos: str,
    eos: str,
    add_generation_prompt: bool = True,
    variables: Mapping[str, object] | None = None,
    now: datetime | None = None,
) -> str:
    """Return the prompt of a conversation as text, the names of control tokens included.

    messages: each has a ``role`` and a ``content``, both text; more keys are for templates that know them, their values
    are JSON's. Without ``template`` the built-in format of ``architecture`` is used. ``variables`` reach the template too.
    Errors: ShapeError if a message is malformed, or the template refuses it; else as ``render_template``.
    """
    plain = [_message(message, index) for index, message in enumerate(messages)]
    if not plain:
        raise ShapeError("no messages", expected="at least one")
    if not template and architecture not in _BITNET:
        raise _no_format(architecture)
    # Here, as jinja2 takes a while to import and most of what a model does needs no template.
    from tritium.engine.template import render_template

    return render_template(
        template or BITNET_CHAT_TEMPLATE,
        {
            "tools": None,
            "documents": None,
            **(variables or {}),
            "messages": plain,
            "bos_token": bos,
            "eos_token": eos,
            "add_generation_prompt": add_generation_prompt,
        },
        now=now,
    )


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    variables: Mapping[str, object] | None = None,
    now: datetime | None = None,
) -> list[int]:
    """Return the prompt of a conversation as token ids; control tokens come from the template only.

    Text in a message that looks like a control token is tokenized as text. Without such text the ids equal
    ``encode(render_chat(…), parse_special=True)`` with one BOS. The template and architecture are the tokenizer's own.
    Errors: as ``render_chat`` and ``Tokenizer.encode``; UnsupportedError if the model has no chat format.
    """
    if not has_chat_format(tokenizer):
        raise _no_format(tokenizer.architecture)
    plain = [_message(message, index) for index, message in enumerate(messages)]
    shield = _Shield(tokenizer.special_tokens(), f"{tokenizer.chat_template}{json.dumps(plain, ensure_ascii=False)}")
    text = render_chat(
        [shield.message(message) for message in plain],
        template=tokenizer.chat_template,
        architecture=tokenizer.architecture,
        bos="" if tokenizer.bos_id is None else tokenizer.token_text(tokenizer.bos_id),
        eos="" if tokenizer.eos_id is None else tokenizer.token_text(tokenizer.eos_id),
        add_generation_prompt=add_generation_prompt,
        variables=variables,
        now=now,
    )
    return tokenizer.encode_template(text, shield.literals)


def _no_format(architecture: str) -> UnsupportedError:
    return UnsupportedError(
        "this model has no chat format",
        where=f"architecture {architecture!r}",
        expected=f"the key tokenizer.chat_template, or BitNet's token {END_OF_TURN}",
        hint="Complete a plain prompt instead",
    )


def _message(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    where = f"message {index}"
    if not isinstance(message, Mapping):
        raise ShapeError("malformed message", where=where, expected="a mapping", got=type(message).__name__)
    role, content = message.get("role"), message.get("content")
    # A role is written between control tokens, so it must not be able to spell one.
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise ShapeError(
            "malformed message", where=f"{where}, role", expected="a word such as user", got=repr(role)[:80]
        )
    if not isinstance(content, str):
        raise ShapeError("malformed message", where=f"{where}, content", expected="text", got=type(content).__name__)
    try:
        json.dumps(plain := dict(message))
    except (TypeError, ValueError, RecursionError) as error:
        raise ShapeError("malformed message", where=where, expected="values of JSON", got=str(error)[:80]) from None
    return plain


class _Shield:
    """Takes from messages the power to spell control tokens.

    One character of each such text is replaced by a stand-in from a private-use plane that occurs nowhere in the
    conversation; after control tokens have been found, the stand-in becomes the character again. The same is done where a
    text could complete a control token with what the template writes before or after it. All other text is left alone,
    so a template that inspects it sees what was written.
    """

    def __init__(self, specials: Mapping[str, int], surroundings: str) -> None:
        self._whole = TokenMatcher(specials)
        self._names = {index: name for name, index in specials.items()}
        self._sorted = sorted(specials)
        self._reversed = sorted(name[::-1] for name in specials)
        self._longest = max(map(len, specials), default=0)
        used = set(surroundings)
        free = (code for code in _STAND_INS if chr(code) not in used)
        ends = {name[0] for name in specials} | {name[-1] for name in specials}
        self.literals = {next(free): character for character in sorted(ends)}
        self._stand_in = {character: chr(code) for code, character in self.literals.items()}

    def message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Shield all values of a message but its role."""
        return {key: value if key == "role" else self._value(value) for key, value in message.items()}

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._value(key): self._value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._value(item) for item in value]
        return value

    def _text(self, text: str) -> str:
        pieces = (
            self._broken(self._names[piece]) if isinstance(piece, int) else piece for piece in self._whole.split(text)
        )
        text = "".join(pieces)
        # Templates trim, so the first and last character are also those without the blanks around.
        start, end = len(text) - len(text.lstrip()), len(text.rstrip())
        characters = list(text)
        for first in {0, start}:
            for stop in range(first + 1, min(first + self._longest, len(text) + 1)):
                if _begins_any(text[first:stop][::-1], self._reversed):
                    characters[stop - 1] = self._stand_in[text[stop - 1]]
        for last in {end, len(text)}:
            for first in range(max(last - self._longest + 1, 0), last):
                if _begins_any(text[first:last], self._sorted):
                    characters[first] = self._stand_in[text[first]]
        return "".join(characters)

    def _broken(self, name: str) -> str:
        return self._stand_in[name[0]] + name[1:]


def _begins_any(text: str, ordered: Sequence[str]) -> bool:
    """True if one of the sorted texts starts with ``text``."""
    place = bisect_left(ordered, text)
    return place < len(ordered) and ordered[place].startswith(text)
