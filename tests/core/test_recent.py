"""What was opened last is kept, and no more than that."""

from harness.core.recent import Recent


def test_a_value_is_opened_once_while_it_is_kept():
    opened = []

    def get(recent, key):
        return recent.get(key, lambda: opened.append(key) or key.upper())

    recent = Recent(2)
    assert [get(recent, key) for key in "aabab"] == ["A", "A", "B", "A", "B"]
    assert opened == ["a", "b"]
    assert [get(recent, key) for key in "cba"] == ["C", "B", "A"]
    assert opened == ["a", "b", "c", "a"]


def test_the_old_value_is_gone_before_the_new_one_is_opened():
    recent = Recent()
    recent.get("old", lambda: 1)
    seen = []
    recent.get("new", lambda: seen.append(dict(recent._values)))
    assert seen == [{}]
