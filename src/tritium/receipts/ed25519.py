"""Ed25519 verification in plain integers, so that a stranger can check a signature with the standard library alone.

Everything here is public; nothing has to take constant time. Signing is in ``receipts.sign``.
Source: RFC 8032, section 5.1.
"""

from __future__ import annotations

import hashlib

P = 2**255 - 19
"""The prime of the field."""
L = 2**252 + 27742317777372353535851937790883648493
"""The order of the generator."""
D = -121665 * pow(121666, -1, P) % P
_ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)

Point = tuple[int, int, int, int]
"""Extended homogeneous coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, x·y = T/Z."""

IDENTITY: Point = (0, 1, 1, 0)


def add(a: Point, b: Point) -> Point:
    """Return a + b by the complete twisted Edwards formula (RFC 8032, section 5.1.4); a = b is allowed."""
    A = (a[1] - a[0]) * (b[1] - b[0]) % P
    B = (a[1] + a[0]) * (b[1] + b[0]) % P
    C = 2 * a[3] * b[3] * D % P
    E = 2 * a[2] * b[2] % P
    e, f, g, h = B - A, E - C, E + C, B + A
    return e * f % P, g * h % P, f * g % P, e * h % P


def _double(a: Point) -> Point:
    A = a[0] * a[0] % P
    B = a[1] * a[1] % P
    C = 2 * a[2] * a[2] % P
    h = A + B
    e = h - (a[0] + a[1]) ** 2 % P
    g = A - B
    f = C + g
    return e * f % P, g * h % P, f * g % P, e * h % P


def decode(encoded: bytes) -> Point | None:
    """Return the point that 32 bytes stand for, or None where they stand for none or are not its one encoding."""
    if len(encoded) != 32:
        return None
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if (v * x * x - u) % P:
        x = x * _ROOT_OF_MINUS_ONE % P
        if (v * x * x - u) % P:
            return None
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def encode(point: Point) -> bytes:
    """Return the 32 bytes of a point: y, and the low bit of x on top."""
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _generator() -> Point:
    point = decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    assert point is not None
    return point


GENERATOR = _generator()


def _multiples(point: Point) -> list[Point]:
    table = [IDENTITY]
    for _ in range(15):
        table.append(add(table[-1], point))
    return table


_GENERATOR_MULTIPLES = _multiples(GENERATOR)


def _combine(s: int, k: int, point: Point) -> Point:
    """Return s·GENERATOR + k·point, four bits of both at a time."""
    table, result = _multiples(point), IDENTITY
    for shift in range(252, -4, -4):
        for _ in range(4):
            result = _double(result)
        result = add(add(result, _GENERATOR_MULTIPLES[s >> shift & 15]), table[k >> shift & 15])
    return result


def is_public_key(encoded: bytes) -> bool:
    """Tell whether 32 bytes are a point that may serve as a key: on the curve, canonical and not of small order.

    A key of small order would let one signature fit many messages.
    """
    point = decode(encoded)
    if point is None:
        return False
    for _ in range(3):
        point = _double(point)
    return encode(point) != encode(IDENTITY)


def is_valid(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether ``signature`` (64 bytes) is that of ``message`` by the key ``public`` (32 bytes).

    encode(s·B − k·A) == R,  k = SHA-512(R ‖ A ‖ message) mod L,  s < L: the strict form, without the cofactor, in which
    no second signature can be made from a first.
    """
    if len(signature) != 64 or not is_public_key(public):
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= L:
        return False
    x, y, z, t = decode(public) or IDENTITY
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    return encode(_combine(s, k, (P - x, y, z, P - t))) == signature[:32]
