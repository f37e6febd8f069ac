"""JSON that holds its own checksum."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.sealed import older, sealed, unsealed

PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
PLAIN |= st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.dictionaries(
    st.text(max_size=5).filter(lambda name: name != "checksum"),
    st.recursive(
        PLAIN,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(VALUES, st.sampled_from([None, 1]))
def test_what_was_sealed_comes_back(values, indent):
    assert unsealed(sealed(values, indent)) == values


@given(VALUES, st.data())
def test_whatever_bit_is_flipped_the_values_are_the_same_or_refused(values, data):
    content = bytearray(sealed(values).encode())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = unsealed(bytes(content))
    except ValueError:
        return
    assert found == values


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"a": 1}', '{"checksum": "0", "a": 1}', sealed({"a": 1})[:-1]]
)
def test_anything_else_is_refused(content):
    with pytest.raises(ValueError, match=r"."):
        unsealed(content)


def test_it_is_json_for_people():
    assert json.loads(sealed({"a": [1, 2]}, indent=1))["a"] == [1, 2]


def test_what_has_no_checksum_is_older():
    assert older('{"v": 1}') == {"v": 1}
    assert older(sealed({"v": 1})) == older("{") == older("[]") == {}
