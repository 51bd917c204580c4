"""What the log says about layers: which are compared, when another one is the best, which to use at the end."""

import pytest

from synbench_lightning.callbacks.layer_advice import LayerAdvice
from synbench_lightning.probe.layers import LayerResult
from tests.results import written_result


def probed(*values, step=10, names=("encoder.1", "encoder.2", "encoder"), **more):
    """A result whose layers have a readout; the standard error of a margin is sqrt(.3² + .4²) = .5."""
    layers = []
    for name, value in zip(names, values, strict=True):
        value, width = value if isinstance(value, tuple) else (value, 8)
        error = 0.4 if name == "encoder" else 0.3
        layers.append(LayerResult(name, width, readout=value, readout_error=error, head=name.startswith("head")))
    return written_result(layers=tuple(layers), readout=0.5, readout_error=0.4, step=step, **more)


def test_layers_are_listed_once_with_their_widths():
    advice = LayerAdvice("synbench")
    assert advice.probed(written_result()) == []
    listed = "SynBench compares 3 layers (width): `encoder.1` (8), `encoder.2` (8), `encoder` (8)"
    assert advice.probed(probed(1, 2, 3)) == [f"{listed}, the last of which is the output."]
    assert advice.probed(probed(1, 2, 3)) == []


def test_one_layer_is_not_compared_with_anything():
    advice, alone = LayerAdvice("synbench"), probed(2, 1, names=("encoder", "head"))
    listed = "SynBench evaluates one layer (width), the encoder's output: `encoder` (8)."
    assert advice.probed(alone) == [f"{listed} Heads are evaluated but not ranked: `head` (8)."]
    assert advice.ended([alone, alone]) is None


def test_heads_are_not_counted_among_the_layers_at_the_end():
    found = LayerAdvice("synbench").ended([probed(0, 1, 2, 3, names=("encoder.1", "encoder.2", "encoder", "head"))])
    assert found == (
        "SynBench: of 3 layers at 1 probe, the encoder's output at step 10 has the highest readout: use it as it is."
    )


@pytest.mark.parametrize(
    ("widths", "ranked"), [((1, 2, 8), "the others are not ranked"), ((1, 33, 8), "none is ranked")]
)
def test_layers_of_other_widths_and_heads_are_named(widths, ranked):
    values, names = [(1.0, width) for width in widths], ("encoder.1", "encoder.2", "encoder", "head.0")
    (found,) = LayerAdvice("synbench").probed(probed(*values, (1.0, 5), names=names))
    listed = ", ".join(f"`{name}` ({width})" for name, width in zip(names[:3], widths, strict=True))
    assert found == (
        f"SynBench compares 3 layers (width): {listed}, the last of which is the output. Heads are evaluated but not "
        f"ranked: `head.0` (5). Only layers at most 4 times as wide or narrow are comparable to it: {ranked}."
    )


def test_a_best_layer_is_told_beyond_two_standard_errors_and_when_it_changes():
    advice = LayerAdvice("synbench")
    said = [
        advice.probed(probed(*values))[1 - min(1, place) :]
        for place, values in enumerate([(1, 0, 0.25), (2, 0, 0.5), (3, 0, 0.5), (0, 2, 0.5), (0, 1, 4)])
    ]
    assert said == [
        [],
        ["SynBench: among the layers, `encoder.1` now has the highest readout, 1.5 (3.0 standard errors) above the "
         "encoder's output."],
        [],
        ["SynBench: among the layers, `encoder.2` now has the highest readout, 1.5 (3.0 standard errors) above the "
         "encoder's output."],
        ["SynBench: among the layers, `encoder` now has the highest readout, 3 (6.0 standard errors) above the second "
         "best."],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("last", "encoder", "sentence"),
    [
        ((2, 0, 0.5), None, "`encoder.1` at step 2,000 has the highest readout, 1.5 (3.0 standard errors) above the "
         "encoder's output."),
        ((2, 0, 0.5), "other", "`encoder.1` at step 2,000 has the highest readout, 1.5 (3.0 standard errors) above the "
         "encoder's output."),
        ((2, 0, 0.5), "encoder", "`encoder.1` at step 2,000 has the highest readout, 1.5 (3.0 standard errors) above "
         'the encoder\'s output. To use it: `encoder="encoder.1"`, or after training `LayerEncoder(model.encoder, '
         '"1")`.'),
        ((2, 0, 0.5), "", "`encoder.1` at step 2,000 has the highest readout, 1.5 (3.0 standard errors) above "
         'the encoder\'s output. To use it: `encoder="encoder.1"`, or after training `LayerEncoder(model, '
         '"encoder.1")`.'),
        ((1.5, 0, 0.5), None, "none at step 2,000 can be distinguished from the encoder's output by its readout."),
        ((0, 0, 2), None, "the encoder's output at step 2,000 has the highest readout: use it as it is."),
    ],
)  # fmt: skip
def test_at_the_end_the_best_layer_of_all_probes_is_named(last, encoder, sentence):
    history = [probed(9, 9, 0, seed=1), probed(1, 0, 0), probed(*last, step=2000),
               probed(0, 0, 1)]  # fmt: skip
    found = LayerAdvice("synbench").ended(history, encoder)
    assert found == f"SynBench: of 3 layers at 3 probes, {sentence}"  # the first was made with another seed


def test_there_is_no_advice_without_layers_of_comparable_width():
    assert LayerAdvice("synbench").ended([written_result()]) is None
    assert LayerAdvice("synbench").ended([probed((1, 1), (1, 1), 1)]) is None
