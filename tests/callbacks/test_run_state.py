import pytest

from synbench_lightning.callbacks.run_state import FORMAT, history_of


def test_a_history_is_read_result_by_result_also_from_before_it_had_a_format():
    assert history_of({"format": FORMAT, "history": [{"a": 1}, {"a": 2}]}, dict) == [{"a": 1}, {"a": 2}]
    assert history_of({"history": ()}, dict) == history_of({"format": 1, "history": ()}, dict) == []


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1, 2], "it is a list"),
        (None, "it is a NoneType"),
        ({"format": FORMAT + 1, "history": []}, f"it has the format {FORMAT + 1}, and this version reads {FORMAT}"),
        ({"format": "x", "history": []}, "it has the format 'x'"),
        ({"format": FORMAT}, "its 'history' must be a list, got a NoneType"),
        ({"history": {"a": 1}}, "its 'history' must be a list, got a dict"),
        ({"history": "abc"}, "its 'history' must be a list, got a str"),
    ],
)
def test_what_is_no_history_is_refused_with_the_reason(state, message):
    with pytest.raises(ValueError, match=message):
        history_of(state, dict)
