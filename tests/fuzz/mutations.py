"""Mutations of bytes and of parsed JSON; the same random number generator gives the same ones."""

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

NUMBERS = (0, 1, -1, 3, 64, 255, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64, 10**9, 10**30, -(2**63))
FLOATS = (0.0, -0.0, -5.0, 1e-320, 1e-7, 1e300, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    *("", " ", "a", "a\nb", "\x1b[2J", "\u202eabc", "\ud800", "é" * 40, "x" * 5000, "../x", "/etc/passwd"),
    *(
        "<script>",
        "=1+1",
        "{}",
        "{",
        "NaN",
        "softmax",
        "s3clip-space/1",
        "0",
        "1e999",
        "\x00",
        "http://127.0.0.1/",
    ),
)
TOKENS = (
    *(b"\x00", b"\xff", b"\n", b"\r", b'"', b"'", b"\\", b"[", b"]", b"{", b"}", b",", b":", b"#", b"-"),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"9" * 30, b"9" * 400, b"\\ud800", b"\\u0000"),
    *(b"[" * 2000, b"{" * 50, b'{"a":' * 2000, b"\xef\xbb\xbf", b"\xff\xfe"),
    *(b"&a", b"*a", b"<<: *a", b"!!python/object:os.system"),
)


def value(rng: random.Random) -> Any:
    """Return something that JSON can hold."""
    kind = rng.randrange(8)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice(FLOATS)
    if kind < 5:
        return rng.choice(TEXTS)
    return copy.deepcopy(rng.choice((None, True, False, [], {}, [1], ["a"], {"a": 1}, [[]], [None])))


def mutated_json(rng: random.Random, content: Any) -> Any:
    """Return parsed JSON with one to three places changed."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(content))
        if not places:
            return value(rng)
        holder, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind < 5:
            holder[key] = value(rng)
        elif kind < 7:
            del holder[key]
        elif kind == 7:
            other, its = rng.choice(places)
            holder[key] = copy.deepcopy(other[its])
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[rng.randrange(len(holder))]))
            if kind == 9:
                holder.extend(copy.deepcopy(holder[key]) for _ in range(rng.randrange(40)))
        else:
            holder[str(value(rng))] = value(rng)
    return content


def _places(content: Any) -> list[tuple[Any, Any]]:
    found, left = [], [content]
    while left and len(found) < 5000:
        holder = left.pop()
        keys = (
            list(holder)
            if isinstance(holder, dict)
            else range(len(holder))
            if isinstance(holder, list)
            else ()
        )
        for key in keys:
            found.append((holder, key))
            left.append(holder[key])
    return found


def mutated_bytes(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:  # noqa: C901
    """Return bytes with one to eight places changed; sometimes a piece of another file is spliced in."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(12)
        if kind < 3 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 3 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind == 4:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 5:
            changed[at:at] = rng.choice(TOKENS)
        elif kind == 6:
            del changed[at : at + rng.choice((1, 1, 2, 8, 64, 1000))]
        elif kind == 7:
            del changed[at:]
        elif kind == 8:
            size = rng.choice((1, 8, 64, 512))
            changed[at:at] = changed[at : at + size] * rng.choice((1, 2, 50))
        elif kind == 9:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) % (1 << (8 * width))
            changed[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 10:
            start = rng.randrange(len(changed) + 1)
            changed[at : at + 16] = changed[start : start + 16]
        elif others:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            changed[at:at] = other[start : start + rng.choice((8, 64, 512))]
    return bytes(changed)


def dumped(rng: random.Random, content: Any) -> bytes:
    """Return JSON as bytes; now and then with a key that stands twice."""
    text = json.dumps(content, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.05 and (at := text.find('"')) >= 0:
        end = text.find(",", at)
        if end > 0:
            text = text[:end] + "," + text[at:]
    return text.encode("utf-8", "surrogatepass")
