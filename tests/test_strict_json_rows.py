"""Many lines parsed at once are what each alone is, or are refused as each alone is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ofa_edge import strict_json

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.sampled_from('ab":{}[],\\ \té'), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b:", 'c"', "{"]), inner),
    max_leaves=6,
)  # fmt: skip
objects = st.dictionaries(st.sampled_from(["record", "key", "x", "a:"]), values, max_size=4)
# What no writer of ours writes: blanks, repeated keys, numbers out of range, half objects.
odd = st.sampled_from([
    b'{"a":1,"a":2}', b'{"a" :1,"a":2}', b'{"a"\t:1,"a":2}', b'{"a":1e999}', b'{"a":-1e999}', b'{"a":1E+999}',
    b'{"a":' + b"9" * 400 + b".0}", b'{"a":' + b"9" * 299 + b"e99}", b'{"a":NaN}', b'{"a":[Infinity]}',
    b'{"a":[1e999]}',
    b'{"a":1},{"b":2}', b'{"record":"a","x":[{}', b'{}]},{"record":"b"}', b'{"a":"', b'"}', b"", b"{}", b"[1]", b" {}",
    b'{"a":1} ', b'{"a":1}x', b"\xff", b'{"a":"\xc3\xa9"}', b'{"\\u0061":1,"a":2}', b'{"a":":","b":"a"}', b'{"a":01}',
    b'{"a":{"b":1,"b":2}}', b'{"a":[{"b":1,"b":2}]}', b'{"a":tru}', b'{"a":1,}', b'{"a"  :1}', b"{'a':1}", b"[" * 5000,
])  # fmt: skip
lines = st.lists(
    objects.map(lambda value: json.dumps(value, separators=(",", ":")).encode())
    | objects.map(lambda value: json.dumps(value).encode())
    | odd,
    max_size=12,
)


@given(lines)
@example([b'{"record":"a","x":[{}', b'{}]},{"record":"b"}'])
@example([b'{"a":"', b'"}'])
@example([b'{"a":1},{"b":2}', b'{"a":[', b"]}"])
def test_lines_at_once_are_the_lines_one_by_one(rows: list[bytes]) -> None:
    expected = [alone(line) for line in rows]
    refused = [(number, value.args[0]) for number, value in enumerate(expected) if isinstance(value, ValueError)]
    if not refused:
        assert strict_json.rows(rows) == expected
        return
    with pytest.raises(strict_json.BadLine) as caught:
        strict_json.rows(rows)
    assert (caught.value.number, str(caught.value)) == refused[0]


def alone(line: bytes) -> Any:
    """What `loads` makes of a line, or the ValueError it raises, with its text."""
    try:
        return strict_json.loads(line)
    except ValueError as error:
        return ValueError(str(error))


def test_the_line_that_is_refused_is_found_among_many() -> None:
    rows = [b'{"a":%d}' % i for i in range(1000)]
    assert strict_json.rows(rows) == [{"a": i} for i in range(1000)]
    rows[777] = b'{"a":1,"a":1}'
    with pytest.raises(strict_json.BadLine, match="duplicate key 'a'") as caught:
        strict_json.rows(rows)
    assert caught.value.number == 777
