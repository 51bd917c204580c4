"""How a probe calls the encoder: as training called it, with Gaussian examples or with inputs."""

from collections import UserDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.encoder_call import EncoderCall, as_arguments, examples_first, plain_call, template
from synbench_lightning.runtime.input_leaf import input_leaf
from synbench_lightning.runtime.placements import Placement, Proxy
from synbench_lightning.runtime.structures import Arguments
from synbench_lightning.runtime.token_masks import Masked, token_mask


def called(function, *args, kind="input", shape=None, head="", part="", **kwargs):
    """The call that was made with these arguments."""
    arguments = Arguments(args, kwargs)
    leaf = input_leaf(arguments)
    kept, per_example, defaults = template(function, arguments, leaf)
    placement = Placement(kind, shape or leaf.shape)
    return EncoderCall("encoder", "", leaf, placement, kept, per_example, defaults, head, part)


class Scaled(nn.Linear):
    def forward(self, mode, x, scale, *, mask=None):
        out = super().forward(x) * scale
        return out if mask is None else out * mask


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.position, self.head = nn.Embedding(20, 4), nn.Embedding(6, 4), nn.Linear(4, 2)

    def forward(self, ids, attention_mask=None):
        x = self.embedding(ids) + self.position(torch.arange(ids.shape[1]))
        return self.head(x.cumsum(1))


@pytest.mark.parametrize("named", [False, True])
def test_a_probe_gives_what_training_gave_besides_the_input(named):
    net, x, scale = Scaled(3, 2), torch.rand(8, 3), torch.tensor(2.0)
    call = called(net, "a", x=x, scale=scale) if named else called(net, "a", x, scale)
    examples = torch.rand(5, 3)
    assert torch.equal(call(net, net, Proxy(examples)), net("a", examples, scale))
    assert torch.equal(call(net, net, examples), net("a", examples, scale))
    whole = Arguments(("a", examples, 3.0))
    assert torch.equal(call(net, net, whole), net("a", examples, 3.0))


def test_rows_of_examples_beside_the_input_are_those_of_one_example_and_left_out_for_inputs_where_they_can_be():
    net, x, scale = Scaled(3, 2), torch.rand(8, 3), torch.arange(8.0)[:, None]
    call = called(net, "a", x, 2.0, mask=scale)
    examples = torch.rand(5, 3)
    found = call(net, net, Proxy(examples))
    assert any(torch.equal(found, net("a", examples, 2.0) * row) for row in scale)
    assert torch.equal(call(net, net, examples), net("a", examples, 2.0))


def test_examples_take_the_place_of_the_first_embedding_with_positions_after_it_as_they_are():
    net, ids = Words(), torch.randint(20, (8, 6))
    call = called(net, ids, attention_mask=torch.ones(8, 6).long(), kind="embedding", shape=(6, 4))
    call = replace(call, placement=Placement("embedding", (6, 4), 2.0, module="embedding"))
    vectors = torch.rand(5, 6, 4)
    output, mask = call(net, net, Proxy(vectors))
    expected = net.head((2 * vectors + net.position.weight).cumsum(1))
    torch.testing.assert_close(output, expected)
    assert mask.shape == (5, 6)
    assert not net.embedding._forward_hooks
    given = call(net, net, {"ids": ids[:3], "attention_mask": torch.ones(3, 6).long()})
    assert torch.equal(given.output, net(ids[:3]))
    assert torch.equal(call(net, net, ids[:3]), net(ids[:3]))


def test_of_texts_the_one_with_the_least_padding_is_the_template():
    net, ids = Words(), torch.ones(4, 6).long()
    mask = (torch.arange(6) < torch.tensor([3, 6, 2, 4])[:, None]).long()
    call = called(net, ids * torch.arange(1, 5)[:, None], attention_mask=mask)
    assert call.arguments.args[0].tolist() == [[2] * 6]


def test_integers_and_complex_numbers_are_made_of_the_examples():
    def seen(x):
        return x

    pictures = called(seen, torch.randint(256, (8, 3, 4)).byte())
    pictures = replace(pictures, placement=Placement("integers", (3, 4), 32.0, 127.5))
    values = torch.tensor([0.0, 1.0, 100.0, -100.0]).expand(1, 3, 4)
    assert pictures(seen, None, Proxy(values))[0, 0].tolist() == [128, 160, 255, 0]
    complex_ones = called(seen, torch.rand(8, 3, dtype=torch.complex64), kind="complex", shape=(3, 2))
    examples = torch.rand(5, 3, 2)
    assert torch.equal(torch.view_as_real(complex_ones(seen, None, Proxy(examples))), examples)


def test_an_encoder_that_takes_half_precision_gets_it_and_what_the_trainer_has_converted_stays():
    def seen(x):
        return x

    call = called(seen, torch.rand(8, 3).half())
    assert call(seen, None, Proxy(torch.rand(5, 3))).dtype == torch.float16
    assert call(seen, None, Proxy(torch.rand(5, 3).bfloat16())).dtype == torch.bfloat16
    assert call(seen, None, torch.rand(5, 3)).dtype == torch.float16
    assert call(seen, None, torch.rand(5, 3).bfloat16()).dtype == torch.bfloat16
    ids = called(seen, torch.randint(9, (8, 3)))
    assert ids(seen, None, torch.rand(5, 3)).dtype == torch.float32  # as they are given, for an error of the encoder


def test_features_before_a_head_and_after_a_part():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.rand(5, 3)
    before, after = called(net, torch.rand(8, 3), head="2"), called(net, torch.rand(8, 3), part="0")
    assert torch.equal(before(net, net, Proxy(x)), net[:2](x))
    assert torch.equal(after(net, net, x), net[0](x))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net)


def test_no_hook_is_left_where_the_encoder_fails():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    call = called(net, torch.rand(8, 3), head="1")
    with pytest.raises(RuntimeError):
        call(net, net, torch.rand(5, 9))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net)


def test_sequences_whose_time_comes_first_are_given_and_returned_so():
    net, x = nn.LSTM(3, 4), torch.rand(6, 8, 3)
    leaf = input_leaf(Arguments((x,))).time_first(x)
    assert (leaf.shape, leaf.rows) == ((6, 3), 8)
    kept, per_example, defaults = template(net, Arguments((x,)), leaf)
    call = EncoderCall("net", "", leaf, Placement("input", (6, 3)), kept, per_example, defaults)
    examples = torch.rand(5, 6, 3)
    output, (hidden, _) = call(net, net, Proxy(examples))
    expected, (last, _) = net(examples.transpose(0, 1))
    assert torch.equal(output, expected.transpose(0, 1))
    assert torch.equal(hidden, last.transpose(0, 1))
    of_training = call.kept(Arguments((x,)))
    assert torch.equal(of_training.args[0], x.transpose(0, 1))
    assert torch.equal(call(net, net, of_training)[0], net(x)[0].transpose(0, 1))


def test_arguments_of_interacting_examples_stay_whole():
    call = EncoderCall("gnn", whole=True)
    assert call.kept(Arguments((torch.rand(3, 2), torch.ones(2, 4).long()))).whole


@pytest.mark.parametrize(
    ("name", "expected"),
    [("attention_mask", [True, False]), ("src_key_padding_mask", [False, True]), ("segment_ids", None)],
)
def test_masks_of_tokens_are_known_by_their_names(name, expected):
    mask = token_mask(Arguments((torch.rand(1, 2, 3),), {name: torch.tensor([[1, 0]])}))
    assert (None if mask is None else mask[0].tolist()) == expected


def test_a_mapping_gives_keyword_arguments_where_the_function_has_them():
    def two(ids, mask):
        return ids

    batch = {"ids": 1, "mask": 2}
    assert as_arguments(two, batch) == Arguments((), batch)
    assert as_arguments(lambda batch: batch, batch) == Arguments((batch,))
    assert as_arguments(two, UserDict(ids=1)) == Arguments((UserDict(ids=1),))
    assert plain_call(lambda x: x + 1, Proxy(torch.ones(2))).tolist() == [2, 2]
    assert isinstance(plain_call(lambda x, attention_mask: x, {"x": 1, "attention_mask": torch.ones(2, 3)}), Masked)


def test_a_call_is_written_down_in_plain_types_and_read_again(tmp_path):
    net, ids = Words(), torch.randint(20, (8, 6))
    call = replace(
        called(net, ids, attention_mask=torch.ones(8, 6).long()), method="encode", head="head", batch_size=8, calls=2,
        placement=Placement("embedding", (6, 4), 2.0, module="embedding"),
    )  # fmt: skip
    torch.save(call.state(), tmp_path / "call.pt")
    again = EncoderCall.of_state(torch.load(tmp_path / "call.pt", weights_only=True))
    for name in ("path", "method", "input", "placement", "per_example", "defaults", "head", "batch_size", "calls"):
        assert getattr(again, name) == getattr(call, name)
    assert torch.equal(again.arguments.args[0], call.arguments.args[0])
    assert replace(call, arguments=Arguments((object(),))).state() is None


def test_a_state_without_what_came_later_is_read_and_a_broken_one_is_refused():
    state = called(Words(), torch.randint(20, (8, 6))).state()
    for name in ("part", "whole", "calls"):
        del state[name]
    state["input"].pop("axis")
    found = EncoderCall.of_state(state)
    assert (found.part, found.whole, found.calls, found.input.axis) == ("", False, 1, 0)
    assert found != EncoderCall.of_state(state)  # calls are compared by identity, since they hold tensors
    with pytest.raises(AttributeError):
        found.part = "layer"
    del state["path"]
    with pytest.raises(ValueError, match="its 'call' cannot be read"):
        EncoderCall.of_state(state)


def test_only_tensors_with_examples_in_their_second_axis_are_transposed():
    output = {"out": torch.rand(6, 8, 4), "last": (torch.rand(1, 8, 3), torch.rand(8, 7)), "mean": torch.rand(8)}
    output["gates"] = torch.rand(6, 8)
    found = examples_first(output, 8)
    assert torch.equal(found["out"], output["out"].transpose(0, 1))
    assert torch.equal(found["last"][0], output["last"][0].transpose(0, 1))
    assert found["last"][1].shape == (8, 7)
    assert found["mean"].shape == (8,)
    assert torch.equal(found["gates"], output["gates"].T)


def test_of_other_arguments_those_with_a_row_for_each_example_are_reduced_to_the_fullest_row():
    x, table, condition = torch.rand(4, 3), torch.rand(5, 2), torch.arange(8.0).view(4, 2)
    filled = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]])
    padding = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 1]])
    for mask, row in (({"mask": filled}, 2), ({"key_padding": padding}, 0)):
        kept, per_example, _ = template(lambda **given: 0, Arguments((x, table, 0.5), {"c": condition, **mask}), None)
        assert (kept, per_example) == (Arguments(), ())
        arguments = Arguments((x, table, 0.5), {"c": condition, **mask})
        kept, per_example, _ = template(lambda *args, **given: 0, arguments, input_leaf(arguments))
        assert kept.args[0] is None
        assert torch.equal(kept.args[1], table)
        assert kept.args[2] == 0.5
        assert torch.equal(kept.kwargs["c"], condition[row : row + 1])
        assert per_example == (("kwargs", "c"), ("kwargs", *mask))


def test_defaults_are_those_of_the_arguments_with_a_row_for_each_example():
    def encode(x, scale=2.0, *, mask=None, offset=torch.nn, needed):
        return x

    x, rows = torch.rand(4, 3), torch.rand(4, 1)
    arguments = Arguments((x, rows), {"mask": rows, "offset": rows, "needed": rows})
    _, per_example, defaults = template(encode, arguments, input_leaf(arguments))
    assert defaults == ((("args", 1), 2.0), (("kwargs", "mask"), None))  # a module is no value that can be kept
    assert len(per_example) == 4
    nested = Arguments((x, (rows, rows)))
    assert template(encode, nested, input_leaf(nested))[2] == ()
    further = Arguments((x, rows, rows))
    assert template(lambda x, *more: x, further, input_leaf(further))[2] == ()


def test_an_input_that_is_no_tensor_is_given_as_it_is_and_several_as_they_are_listed():
    call, one, other = EncoderCall("net"), torch.rand(2, 3), torch.rand(2, 3)
    assert call.bound(one) == call.kept(Arguments((one,))) == Arguments((one,))
    assert call.bound("text") == Arguments(("text",))
    assert call.bound([one, other]) == call.bound((one, other)) == Arguments((one, other))


def test_a_mapping_takes_the_place_of_the_one_that_training_gave_and_other_rows_are_repeated():
    def seen(batch, rows, scale=None):
        return batch, rows, scale

    ids, mask, rows = torch.randint(1, 9, (8, 5)), torch.ones(8, 5).long(), torch.arange(1, 17).view(8, 2)
    call = called(seen, {"ids": ids, "mask": mask}, rows, scale=rows)
    for batch in ({"ids": ids[:3], "mask": mask[:3]}, {"ids": ids[:3]}):
        given, repeated, scale = call(seen, None, batch)
        assert given is batch
        assert torch.equal(repeated, rows[:1].expand(3, 2))
        assert scale is None


def test_a_mapping_gives_the_arguments_that_training_gave_by_name_and_other_rows_are_repeated():
    def seen(*, ids, rows, mask=None):
        return ids, rows, mask

    ids, rows = torch.randint(1, 9, (8, 5)), torch.arange(1, 17).view(8, 1, 2)
    call = called(seen, ids=ids, rows=rows, mask=ids)
    given, repeated, mask = call(seen, None, {"ids": ids[:3]})
    assert torch.equal(given, ids[:3])
    assert torch.equal(repeated, rows[:1].expand(3, 1, 2))
    assert mask is None
    assert torch.equal(call(seen, None, {"ids": ids[:3], "rows": rows[3:6]})[1], rows[3:6])
    assert call(seen, None, {"ids": "a text"})[1].shape == (1, 1, 2)


@pytest.mark.parametrize("missing", ["input", "placement"])
def test_an_encoder_without_a_place_for_vectors_says_so(missing):
    call = replace(called(lambda x: x, torch.rand(8, 3)), **{missing: None})
    with pytest.raises(ValueError, match="does not accept real-valued vectors"):
        call(lambda x: x, None, Proxy(torch.rand(5, 3)))


def test_what_a_method_returns_is_read_though_it_calls_its_module():
    class Twice(nn.Linear):
        def embed(self, x):
            return 2 * self(x)

    net, x = Twice(3, 2), torch.rand(5, 3)
    call = replace(called(net.embed, torch.rand(8, 3)), method="embed")
    assert torch.equal(call(net.embed, net, x), 2 * net(x))


def test_an_object_that_cannot_be_rebuilt_is_kept_as_it_is():
    class Graph:
        def __init__(self):
            self.edges = torch.zeros(8, 2).long()

        def to_dict(self):
            return {"edges": self.edges}

        def to(self, device):
            return self

    arguments = Arguments((torch.rand(8, 3), Graph()))
    kept, per_example, _ = template(lambda *args: 0, arguments, input_leaf(arguments))
    assert kept.args[1] is arguments.args[1]
    assert per_example == ()
