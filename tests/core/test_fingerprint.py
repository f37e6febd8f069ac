"""Fingerprints stand for values, not for how they are written."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.fingerprint import canonical, checksum, fingerprint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reversed_keys(values):
    if isinstance(values, dict):
        return {key: reversed_keys(values[key]) for key in reversed(list(values))}
    return [reversed_keys(value) for value in values] if isinstance(values, list) else values


@given(JSON)
def test_the_order_of_keys_does_not_matter_at_any_depth(values):
    assert fingerprint(values) == fingerprint(reversed_keys(values))


@given(JSON, JSON)
def test_fingerprints_are_equal_exactly_where_canonical_forms_are(one, other):
    assert (fingerprint(one) == fingerprint(other)) == (canonical(one) == canonical(other))


def test_the_order_of_a_list_matters():
    assert fingerprint([1, 2]) != fingerprint([2, 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [1.0, float("nan")]}])
def test_numbers_that_json_has_no_word_for_are_errors(value):
    with pytest.raises(ValueError, match="JSON"):
        fingerprint(value)


@pytest.mark.parametrize("value", [{1, 2}, object(), np.float32(1), b"bytes"])
def test_types_that_json_has_no_word_for_are_errors(value):
    with pytest.raises(TypeError):
        fingerprint(value)


def test_a_fingerprint_is_the_same_in_another_process():
    values = {"b": [1, 2.5, None], "a": {"é": True}}
    program = f"from harness.core.fingerprint import fingerprint; print(fingerprint({values!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint(values)


def test_a_fingerprint_is_the_head_of_the_sha_256_of_compact_json():
    expected = hashlib.sha256(b'{"a":[1,2],"b":null}').hexdigest()[:20]
    assert fingerprint({"b": None, "a": [1, 2]}) == expected


def test_a_checksum_is_the_sha_256_of_the_content(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert checksum(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
