"""What is said of the views of a run's own examples, and what of them is kept in checkpoints."""

import pytest
import torch

from synbench_lightning.callbacks import view_collection
from synbench_lightning.callbacks.reread_views import IN_DATA, IN_STEP, ReadingPlan, ReadViews
from synbench_lightning.callbacks.view_collection import GIVE, ONE_LENGTH, ViewCollection
from synbench_lightning.runtime.structures import Arguments

PLAN = ReadingPlan([[[0, 1]], [[2, 3]]], 4)
REASON = "Stream is a stream"


def given(x):
    return Arguments((x,), {})


def views(number=4, rows=40, shape=(6,)):
    own = torch.randn(number, rows, *shape, generator=torch.Generator().manual_seed(0))
    return [[given(x)] for x in own]


def collected(read, kind):
    own = ViewCollection(0)
    own._reason = REASON
    own._keep(read, kind)
    return own


def test_views_that_were_read_are_named_with_their_number_and_source():
    own = collected(ReadViews(views(), 40, IN_STEP, PLAN), "views")
    assert own.sentence == f"40 training examples, each read 4 times (random in {IN_STEP})"
    assert (own.inputs.kind, own.inputs.num_inputs) == ("views", 40)
    own = collected(ReadViews(views(2), 40, ""), "pairs")
    assert own.sentence == f"40 training examples in 2 views each, as training fed them to the encoder ({REASON})"
    assert own.inputs.kind == "pairs"


def test_one_view_gets_noise_with_a_warning():
    own = collected(ReadViews(views(1), 40, ""), "noise")
    assert own.sentence == (
        f"40 training examples with white noise, since {REASON}. Noise only approximates nuisance variation; "
        f"information misleads if the labels do not depend on the main variation of the inputs. {GIVE}"
    )
    assert own.inputs.kind == "noise"


@pytest.mark.parametrize("rows", [31, 32])
def test_32_examples_are_needed(rows):
    own = collected(ReadViews(views(rows=rows), rows, IN_DATA), "views")
    few = f"it is not measured: 31 examples were found, at least 32 are needed ({REASON})"
    assert (own.sentence == few, own.inputs is None) == (rows == 31, rows == 31)
    own = ViewCollection(0)
    own._keep(ReadViews(views(rows=31), 31, ""), "pairs")
    assert own.sentence == few.removesuffix(f" ({REASON})")


@pytest.mark.parametrize(
    "chunk",
    [
        given(torch.arange(40 * 6).view(40, 6)),  # a few integers for each example
        given(torch.randn(40, 6, dtype=torch.complex64)),
        given([torch.randn(40, 3, 4, 4), torch.randn(40, 3, 2, 2)]),
    ],
)
def test_inputs_that_take_no_noise_are_not_measured(chunk):
    own = collected(ReadViews([[chunk]], 40, ""), "noise")
    assert own.sentence == f"it is not measured: {REASON}, and no noise can be added to such inputs. {GIVE}"
    assert own.state() is None


def test_pictures_of_whole_numbers_take_noise_and_several_chunks_do_not():
    pictures = given(torch.randint(256, (40, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte())
    assert collected(ReadViews([[pictures]], 40, ""), "noise").inputs.kind == "noise"
    assert collected(ReadViews([[pictures, pictures]], 80, ""), "noise").inputs is None


def texts(rows, number=2):
    ids = torch.randint(1, 100, (number, rows, 32), generator=torch.Generator().manual_seed(0))
    return [[given(x)] for x in ids]


@pytest.mark.parametrize("rows", [40, 512])
def test_texts_are_split_into_parts_whatever_is_random_in_them(rows):
    unreliable = ". With fewer than 512 texts the estimate is unreliable" if rows < 512 else ""
    whole = f"{rows} training examples in 4 parts each, which share no token (assuming one text per row)"
    own = collected(ReadViews(texts(rows), rows, IN_DATA), "views")
    assert own.sentence == f"{whole}{unreliable}"
    assert len(own.state()["views"]) == 1
    own = collected(ReadViews(texts(rows, 1), rows, ""), "noise")
    assert own.sentence == f"{whole}, since {REASON}{unreliable}"
    assert own.discard("too long.") == f"too long. {ONE_LENGTH}"
    assert (own.inputs, own.state()) == (None, None)
    assert own.sentence == f"it is not measured: too long. {ONE_LENGTH}"
    pairs = collected(ReadViews(texts(rows), rows, ""), "pairs")  # the step's own views are no parts
    assert pairs.inputs.kind == "pairs"
    assert pairs.discard("too long.") == "too long."


@pytest.mark.parametrize(
    ("kind", "plan", "limit", "kept"),
    [
        ("views", PLAN, 0, "views"), ("views", PLAN, -1, "plan"), ("views", None, -1, "views"),
        ("pairs", PLAN, -1, "views"), ("noise", PLAN, -1, "plan"), ("noise", PLAN, 0, "views"),
    ],
)  # fmt: skip
def test_a_checkpoint_has_the_views_or_how_to_read_them_again(monkeypatch, kind, plan, limit, kept):
    own = views(1 if kind == "noise" else 2)
    size = sum(view[0].args[0].nbytes for view in own)
    monkeypatch.setattr(view_collection, "KEPT_BYTES", size + limit)
    state = collected(ReadViews(own, 40, "", plan), kind).state()
    assert {"views", "plan"} & set(state) == {kept}
    assert (state["kind"], state["examples"], state["reason"]) == (kind, 40, REASON)
    if kept == "plan":
        assert state["plan"] == [PLAN.chunks, 4]
    else:
        assert torch.equal(state["views"][-1][0][0][0], own[-1][0].args[0])
    again = ViewCollection(0)
    again.restore(state)
    assert again.state() == state


def test_views_that_cannot_be_written_in_plain_types_are_not_kept():
    class Graph:
        pass

    own = [[Arguments((x[0].args[0], Graph()), {})] for x in views(2)]
    assert collected(ReadViews(own, 40, ""), "pairs").state() is None
    assert collected(ReadViews(own, 40, IN_DATA, PLAN), "views").state()["plan"] == [PLAN.chunks, 4]


@pytest.mark.parametrize(
    "state", [{}, {"reason": "x"}, {"reason": "x", "views": 3}, {"reason": "x", "plan": [1]}, None]
)
def test_a_damaged_state_is_refused(state):
    with pytest.raises(ValueError, match="its 'views' cannot be read"):
        ViewCollection(0).restore(state)
