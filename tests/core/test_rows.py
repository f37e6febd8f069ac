"""Rows: one pinned schema, and journal lines that give back what they were made of."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.core.rows import _packed, _unpacked


@given(st.lists(st.booleans(), max_size=70), st.floats(), st.integers(), st.text())
def test_a_journal_line_gives_back_what_it_was_made_of(bits, number, whole, text):
    row = {
        "array": np.array(bits, bool),
        "number": np.float64(number),
        "whole": whole,
        "text": text,
        "none": None,
    }
    back = _unpacked(json.loads(json.dumps(_packed(row), allow_nan=False)))
    np.testing.assert_array_equal(back["array"], np.array(bits, bool))
    assert back["array"].dtype == bool
    assert back["number"] == (number if np.isfinite(number) else None)
    assert (back["whole"], back["text"], back["none"]) == (whole, text, None)


def test_numpy_scalars_become_numbers():
    packed = _packed({"a": np.int64(3), "b": np.float32(0.5), "c": np.bool_(True)})
    assert json.dumps(packed) == '{"a": 3, "b": 0.5, "c": true}'
