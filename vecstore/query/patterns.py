"""Regular expressions in time that grows with the text alone, whoever wrote the pattern.

Python's ``re`` tries one way after another, and a pattern such as ``(a+)+$`` has it try for ever, which nothing can
interrupt. Here all ways are followed at once: the pattern becomes an automaton whose states are made as texts ask for
them (Thompson; RE2 does the same). What needs more than that is refused: backreferences, lookaround, possessive and
atomic groups. The rest means what ``re.search`` means by it, and single characters are put to ``re`` itself.

>>> list(Pattern("^IMG_[0-9]{4}").search(["IMG_0001.jpg", "img_0001.jpg"]))
[True, False]
>>> list(Pattern("(a+)+$").search(["a" * 5000 + "b"]))
[False]
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import getitem
from typing import Any, Final, NamedTuple

MOST_CHARACTERS: Final = 1_000
_MOST_PARTS = 4_000
_MOST_NESTED = 50
# Steps through nodes that one evaluation may take to make its states, a second or two; ordinary patterns need thousands.
_MOST_STEPS = 4_000_000
# What states and their transitions may add up to before they are dropped, some tens of megabytes.
_MOST_KEPT = 400_000
_PORTION = 1 << 12

_FLAGS: Final = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "u": re.UNICODE}
_SIGNS: Final = {
    "^": "start of line",
    "$": "end of line",
    "\\A": "start",
    "\\Z": "end",
    "\\b": "edge",
    "\\B": "no edge",
}
# The character before: nothing, the end of a line, a letter, or something else.
_START, _NEWLINE, _WORD, _OTHER = range(4)
_END, _LAST_NEWLINE = "", "\n$"
_IS_WORD: Final = re.compile(r"\w").fullmatch


class PatternError(ValueError):
    """A pattern that cannot be read, or that would take too long."""


# -- reading a pattern


class _One(NamedTuple):
    """One character, as ``re`` writes it."""

    text: str
    flags: int


class _Sign(NamedTuple):
    """A place between characters."""

    kind: str


class _Repeat(NamedTuple):
    part: Any
    least: int
    most: int | None


class _Sequence(NamedTuple):
    parts: list[Any]


class _Choice(NamedTuple):
    parts: list[Any]


class _Reader:
    """Reads a pattern into parts. Only the outermost structure is looked at: characters are left to ``re``."""

    def __init__(self, text: str, flags: int) -> None:
        self._text, self._at = text, 0
        leading = re.match(r"\(\?([a-zA-Z]+)\)", text)
        if leading is not None:
            self._at = leading.end()
            flags |= self._flags(leading[1])
        self._global = flags

    def read(self) -> Any:
        found = self._choice(self._global, 0)
        if self._at < len(self._text):
            self._fail("an unmatched ')'")
        return found

    def _choice(self, flags: int, depth: int) -> Any:
        if depth > _MOST_NESTED:
            self._fail(f"groups nested deeper than {_MOST_NESTED}")
        parts = [self._sequence(flags, depth)]
        while self._take("|"):
            parts.append(self._sequence(flags, depth))
        return parts[0] if len(parts) == 1 else _Choice(parts)

    def _sequence(self, flags: int, depth: int) -> _Sequence:
        parts = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            part = self._part(flags, depth)
            bounds = self._bounds()
            if bounds is not None:
                if isinstance(part, _Sign):
                    self._fail("nothing to repeat")
                part = _Repeat(part, *bounds)
                if self._bounds() is not None or self._text[self._at : self._at + 1] == "+":
                    self._fail("a repeat of a repeat, or a possessive one")
            parts.append(part)
        return _Sequence(parts)

    def _part(self, flags: int, depth: int) -> Any:
        text, start = self._text, self._at
        first = text[start]
        if first in "*+?":
            self._fail("nothing to repeat")
        if first == "(":
            self._at += 1
            return self._group(flags, depth)
        if first == "[":
            return self._one(self._end_of_set(start), flags)
        if first != "\\":
            self._at += 1
            if first in "^$":
                return _Sign(f"{'any ' if flags & re.MULTILINE else ''}{_SIGNS[first]}")
            return _One(first if first in "." else re.escape(first), flags)
        second = text[start + 1 : start + 2]
        if "\\" + second in _SIGNS:
            self._at += 2
            return _Sign(_SIGNS["\\" + second])
        if second.isdigit() and second != "0":
            self._fail("a backreference")
        if second == "0":
            digits = re.compile("[0-7]{1,3}").match(text, start + 1)
            return self._one(digits.end() if digits else start + 2, flags)
        return self._one(start + 2 + {"x": 2, "u": 4, "U": 8}.get(second, 0), flags)

    def _group(self, flags: int, depth: int) -> Any:
        if self._take("?"):
            scoped = re.compile(r"([a-zA-Z]*)(?:-([a-zA-Z]+))?:").match(self._text, self._at)
            named = re.compile(r"P<[^\W\d]\w*>").match(self._text, self._at)
            if scoped is not None:
                flags = (flags | self._flags(scoped[1])) & ~self._flags(scoped[2] or "")
                self._at = scoped.end()
            elif named is not None:
                self._at = named.end()
            else:
                self._fail(
                    "a lookaround, a backreference, a condition or another group that begins with '(?'"
                )
        found = self._choice(flags, depth + 1)
        if not self._take(")"):
            self._fail("a '(' that is not closed")
        return found

    def _bounds(self) -> tuple[int, int | None] | None:
        """How often what came before may stand: the lazy forms find the same texts."""
        found = re.compile(r"([*+?])|\{(\d*)(?:(,)(\d*))?\}").match(self._text, self._at)
        if found is None or found[0] == "{}":
            return None
        self._at = found.end()
        self._take("?")
        if found[1]:
            return (1 if found[1] == "+" else 0), (1 if found[1] == "?" else None)
        digits = max(len(found[2]), len(found[4] or ""))
        if digits > 4:
            self._fail("a repeat of more than 9999 times")
        least = int(found[2] or 0)
        most = least if not found[3] else int(found[4]) if found[4] else None
        if most is not None and most < least:
            self._fail("a repeat whose most is below its least")
        return least, most

    def _end_of_set(self, start: int) -> int:
        at = start + 1 + (self._text[start + 1 : start + 2] == "^")
        at += self._text[at : at + 1] == "]"
        while at < len(self._text) and self._text[at] != "]":
            at += 2 if self._text[at] == "\\" else 1
        if at >= len(self._text):
            self._fail("a '[' that is not closed")
        return at + 1

    def _one(self, end: int, flags: int) -> _One:
        text = self._text[self._at : end]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                re.compile(text, flags)
        except re.error as error:
            self._fail(str(error.msg))
        self._at = end
        return _One(text, flags)

    def _flags(self, letters: str) -> int:
        if not set(letters) <= set(_FLAGS):
            self._fail(f"flags other than {', '.join(_FLAGS)}")
        return int(sum(_FLAGS[letter] for letter in set(letters)))

    def _take(self, letter: str) -> bool:
        there = self._text.startswith(letter, self._at)
        self._at += there
        return there

    def _fail(self, what: str) -> Any:
        raise PatternError(f"{what} at character {self._at}")


# -- the automaton


class _Node(NamedTuple):
    """A step: over a character that test ``test`` accepts, past a sign, or without either to one or two others."""

    test: int | None
    sign: str | None
    following: list[int]


class _State(dict[str, Any]):
    """Where a text may have got to in the automaton; and by each next character, where it then is."""

    __slots__ = ("before", "machine", "nodes")

    def __init__(self, machine: _Machine | None, nodes: tuple[int, ...], before: int) -> None:
        super().__init__()
        self.machine, self.nodes, self.before = machine, nodes, before

    def __missing__(self, symbol: str) -> _State:
        if self.machine is None:
            return self
        found = self[symbol] = self.machine.step(self, symbol)
        return found


# Whatever comes, these stay what they are.
_MATCHED, _FAILED = _State(None, (), 0), _State(None, (), 0)


class _Machine:
    """The automaton of one pattern. Its states are shared by all texts, and by threads."""

    def __init__(self, parts: Any) -> None:
        self._nodes: list[_Node] = []
        self._tests: dict[_One, int] = {}
        self._parts = 0
        self._goal = self._node(None, None, [])
        self._first = self._made(parts, self._goal)
        self._signs = any(node.sign is not None for node in self._nodes)
        self._matchers = [_matcher(one) for one in self._tests]
        self._accepted: dict[str, frozenset[int]] = {}
        self._states: dict[tuple[tuple[int, ...], int], _State] = {}
        self._kept = 0
        self.steps = 0
        # Where nothing can begin behind the start, a text that failed there has failed.
        self._anchored = not self._begins_late()

    def start(self) -> _State:
        return self._state((self._first,), _START)

    def step(self, state: _State, symbol: str) -> _State:
        found, matched = self._reached(state.nodes, state.before, symbol)
        if matched:
            return _MATCHED
        if symbol == _END:
            return _FAILED
        character = symbol[0]
        accepted = self._accepted.get(character)
        if accepted is None:
            accepted = frozenset(
                number for number, matches in enumerate(self._matchers) if matches(character)
            )
            self._accepted[character] = accepted
        following = {self._nodes[at].following[0] for at in found if self._nodes[at].test in accepted}
        if not self._anchored:
            following.add(self._first)
        elif not following:
            return _FAILED
        before = _START
        if self._signs:
            before = _NEWLINE if character == "\n" else _WORD if _IS_WORD(character) else _OTHER
        return self._state(tuple(sorted(following)), before)

    def _state(self, nodes: tuple[int, ...], before: int) -> _State:
        known = self._states.get((nodes, before))
        self._kept += 1 if known is not None else 10 + len(nodes)
        if self._kept > _MOST_KEPT:
            self._states, self._accepted, self._kept, known = {}, {}, 0, None
        if known is not None:
            return known
        return self._states.setdefault((nodes, before), _State(self, nodes, before))

    def _reached(self, nodes: tuple[int, ...], before: int, symbol: str) -> tuple[list[int], bool]:
        """The nodes that wait for a character, of all that are reached without one; and whether the goal is."""
        waiting: list[int] = []
        seen, stack = set(nodes), list(nodes)
        while stack:
            at = stack.pop()
            if at == self._goal:
                return waiting, True
            node = self._nodes[at]
            if node.test is not None:
                waiting.append(at)
            elif node.sign is None or _holds(node.sign, before, symbol):
                stack.extend(one for one in node.following if one not in seen)
                seen.update(node.following)
        self.steps += len(seen)
        if self.steps > _MOST_STEPS:
            raise PatternError(
                "more states than can be followed in a few seconds: repeats within repeats make them"
            )
        return waiting, False

    def _begins_late(self) -> bool:
        """Whether a match may begin behind the first character."""
        return any(
            any(self._reached((self._first,), before, symbol))
            for before in (_NEWLINE, _WORD, _OTHER)
            for symbol in ("x", "-", "\n", _LAST_NEWLINE, _END)
        )

    def _node(self, test: int | None, sign: str | None, following: list[int]) -> int:
        self._nodes.append(_Node(test, sign, following))
        return len(self._nodes) - 1

    def _made(self, part: Any, then: int) -> int:
        """The node where a part begins that goes on at ``then``."""
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise PatternError(f"more than {_MOST_PARTS} parts, once its repeats are written out")
        if isinstance(part, _One):
            return self._node(self._tests.setdefault(part, len(self._tests)), None, [then])
        if isinstance(part, _Sign):
            return self._node(None, part.kind, [then])
        if isinstance(part, _Sequence):
            for one in reversed(part.parts):
                then = self._made(one, then)
            return then
        if isinstance(part, _Choice):
            return self._node(None, None, [self._made(one, then) for one in part.parts])
        if part.most is None:
            loop = self._node(None, None, [then])
            self._nodes[loop].following.append(self._made(part.part, loop))
            then = loop
        else:
            end = then
            for _ in range(part.most - part.least):
                then = self._node(None, None, [end, self._made(part.part, then)])
        for _ in range(part.least):
            then = self._made(part.part, then)
        return then


def _matcher(one: _One) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.compile(one.text, one.flags).fullmatch


def _holds(sign: str, before: int, symbol: str) -> bool:
    if sign in ("start", "start of line"):
        return before == _START
    if sign == "any start of line":
        return before in (_START, _NEWLINE)
    if sign == "end":
        return symbol == _END
    if sign == "end of line":
        return symbol in (_END, _LAST_NEWLINE)
    if sign == "any end of line":
        return symbol == _END or symbol[0] == "\n"
    edge = (before == _WORD) != (symbol != _END and _IS_WORD(symbol[0]) is not None)
    return edge == (sign == "edge")


class Pattern:
    """A pattern that was read; equal to another of the same text and flags."""

    def __init__(self, text: str, flags: int = 0) -> None:
        if len(text) > MOST_CHARACTERS:
            raise PatternError(f"a pattern may have {MOST_CHARACTERS} characters, and this has {len(text)}")
        self.text, self.flags = text, flags
        self._machine = _Machine(_Reader(text, flags).read())

    def search(self, texts: Iterable[str]) -> Iterator[bool]:
        """Whether each text has a match somewhere. Raises PatternError where that takes seconds of making states."""
        machine = self._machine
        machine.steps = 0
        start = machine.start()
        for text in texts:
            state, ends = start, text.endswith("\n")
            size = len(text) - ends
            for low in range(0, size, _PORTION):
                # One lookup a character, in C: each state is a dict from characters to states.
                state = reduce(getitem, text[low : min(low + _PORTION, size)], state)
                if state.machine is None:
                    break
            if ends:
                state = state[_LAST_NEWLINE]
            yield state[_END] is _MATCHED

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and (self.text, self.flags) == (other.text, other.flags)

    def __hash__(self) -> int:
        return hash((self.text, self.flags))

    def __reduce__(self) -> tuple[Any, ...]:
        return Pattern, (self.text, self.flags)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"
