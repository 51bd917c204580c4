"""`SynBenchCallback(layers=...)`: several layers of the encoder in one probe."""

import copy

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from synbench_lightning import LayerEncoder, evaluate
from synbench_lightning.callbacks.layer_advice import LayerAdvice
from synbench_lightning.cli.main import main
from tests.callbacks.runs import SMALL, curves, probing, steps, trainer
from tests.callbacks.test_figure_logging import images, shown
from tests.encoders import Autoencoder, Batches
from tests.integration.test_resume import SaveBefore
from tests.integration.test_training_unchanged import assert_identical
from tests.probe.test_layers import layer

X = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def views(batch):
    return batch + 0.5 * torch.randn_like(batch)


class Deep(Autoencoder):
    """An encoder whose layers are of one width, but for the last one where that is said."""

    def __init__(self, last=16):
        super().__init__()
        blocks = [nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU()) for _ in range(3)]
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *blocks, nn.Linear(16, last))
        self.decoder = nn.Linear(last, 64)


NAMES = [f"encoder.{index}" for index in range(1, 6)]


def names(result):
    return [found.name for found in result.layers]


def layered(**arguments):
    return probing(inputs=X, views=views, **arguments)


def test_every_probe_has_the_layers_and_they_are_those_of_evaluate_on_the_same_weights():
    model, callback = Deep(), layered()
    trainer(callback, max_steps=10).fit(model)
    assert [names(result) for result in callback.history] == [NAMES] * 3
    offline = evaluate(model.encoder, (1, 8, 8), plan=SMALL, inputs=X, views=views, layers="auto")
    for found, expected in zip(callback.history[-1].layers, offline.layers, strict=True):
        assert (found.width, found.information) == (expected.width, expected.information)


def test_they_are_logged_sorted_by_depth_with_the_best_one_and_its_margin():
    logger, callback = TensorBoardLogger("runs"), layered()
    run = trainer(callback, max_steps=10, logger=logger)
    run.fit(Deep())
    found, last = curves(logger), callback.history[-1]
    keys = [f"synbench_layers/{index:02d}_{name}" for index, name in enumerate(NAMES)]
    assert sorted(key for key in found if key.startswith("synbench_layers/")) == keys
    for key, of_layer in zip(keys, last.layers, strict=True):
        assert found[key][-1] == (10, pytest.approx(of_layer.information))
    best = last.best_layer
    for name, value in (("", best.place), ("_information", best.layer.information), ("_margin", best.margin_in_errors)):
        assert found[f"synbench_details/best_layer{name}"][-1][1] == pytest.approx(value)
    assert last.information == last.layers[-1].information


def test_names_are_those_of_the_module_in_training_and_wrong_ones_end_the_run_at_its_start():
    callback = layered(layers=("encoder.4", "encoder.2"))
    trainer(callback, max_steps=1).fit(Deep())
    assert names(callback.history[0]) == ["encoder.2", "encoder.4", "encoder"]
    with pytest.raises(ValueError, match=r"`layers`: 'encoder.9' is not the name of a module of Deep.*'encoder.2'"):
        trainer(layered(layers=("encoder.9",)), max_steps=1).fit(Deep())
    model = Deep()
    model.unused = nn.Linear(16, 16)
    with pytest.raises(ValueError, match=r"`layers`: 'unused' is not called by the encoder"):
        trainer(layered(layers=("unused",)), max_steps=1).fit(model)


def test_without_inputs_and_labels_there_are_none_and_names_are_refused():
    callback = probing()
    trainer(callback, max_steps=1).fit(Deep())
    assert callback.history[0].layers == ()
    with pytest.raises(ValueError, match="`layers` needs `inputs`"):
        probing(layers=("encoder.2",))
    none = layered(layers=None)
    trainer(none, max_steps=1).fit(Deep())
    assert none.history[0].layers == ()


def test_they_are_in_the_checkpoint_and_go_on_after_a_resume():
    first, resumed = layered(), layered()
    trainer(first, SaveBefore(7), max_steps=10).fit(Deep())
    trainer(resumed, max_steps=15).fit(Deep(), ckpt_path="saved.ckpt")
    assert steps(resumed) == [0, 5, 10, 15]
    assert resumed.history[:2] == first.history[:2]
    assert [names(result) for result in resumed.history] == [NAMES] * 4


def test_views_from_the_batches_and_a_callable_encoder_have_layers_too():
    class TwoViews(Deep):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0][0], 0), batch_idx)

        def train_dataloader(self):
            return DataLoader(Batches(lambda g: ([torch.randn(1, 8, 8, generator=g)] * 2, 0)), batch_size=32)

    given = {"inputs": X, "views": views, "encoder": lambda module, x: module.encoder(x), "input_shape": (1, 8, 8)}
    callback = probing(**given)
    trainer(callback, max_steps=1).fit(TwoViews())
    assert names(callback.history[0]) == NAMES


def test_the_end_of_a_run_says_which_layer_of_which_step_to_read_and_how(caplog):
    class Forgetting(Deep):
        """Its last layer keeps one direction only, from the third step on."""

        def training_step(self, batch, batch_idx):
            if self.global_step == 3:
                with torch.no_grad():
                    self.encoder[-1].weight[1:], self.encoder[-1].bias[1:] = 0, 0
            return super().training_step(batch, batch_idx) * 0

    callback = layered()
    model = Forgetting()
    with caplog.at_level("INFO"):
        trainer(callback, max_steps=10).fit(model)
    pairs = [(of.information, result.step, of.name) for result in callback.history for of in result.layers]
    _, step, name = max(pairs, key=lambda pair: pair[0])
    (last,) = [record.message for record in caplog.records if "layers at 3 probes" in record.message]
    assert f"`{name}` at step {step:,} has the highest information" in last
    inner = name.removeprefix("encoder.")
    assert f'To use it: `encoder="{name}"`, or after training `LayerEncoder(model.encoder, "{inner}")`' in last
    read = LayerEncoder(model.encoder, inner)
    offline = evaluate(read, (1, 8, 8), plan=SMALL, inputs=X, views=views)
    assert offline.information == next(of.information for of in callback.history[-1].layers if of.name == name)
    said = [record.message for record in caplog.records if "now has the highest" in record.message]
    assert said
    assert len(said) <= 3


class Wrapped(Deep):
    """The encoder is called by the `forward` of the module."""

    def forward(self, x):
        return self.encoder(x)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.mse_loss(self.decoder(self(batch[0])), batch[0].flatten(1))


class Itself(Deep):
    """The module is the encoder."""

    def __init__(self):
        super().__init__()
        self.first, *self.blocks = self.encoder[:2], *self.encoder[2:]
        self.blocks, self.encoder = nn.ModuleList(self.blocks), None

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.mse_loss(self.decoder(self(batch[0])), batch[0].flatten(1))


class Compiled(Deep):
    """What happens within the encoder is not seen in training."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.compile(self.encoder, backend="eager")


class InPlace(Deep):
    """The same, without a wrapper."""

    def __init__(self):
        super().__init__()
        self.encoder.compile(backend="eager")


class CompiledBlocks(Deep):
    """Each block by itself."""

    def __init__(self):
        super().__init__()
        for index, block in enumerate(self.encoder):
            self.encoder[index] = torch.compile(block, backend="eager")


class Checkpointed(Deep):
    """The activations within each block are computed again in the backward pass."""

    reentrant = False

    def __init__(self):
        super().__init__()
        self.encoder = CheckpointedBlocks(self.encoder, self.reentrant)


class CheckpointedBlocks(nn.Sequential):
    def __init__(self, blocks, reentrant):
        super().__init__(*blocks)
        self.reentrant = reentrant

    def forward(self, x):
        first, *blocks = self
        x = first(x).requires_grad_()
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


class Reentrant(Checkpointed):
    reentrant = True


class CheckpointWrapped(Deep):
    """As FSDP users do it."""

    def __init__(self):
        super().__init__()
        for index, block in enumerate(self.encoder):
            self.encoder[index] = checkpoint_wrapper(block)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by torch.compile of blocks
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # by checkpointing without gradients
@pytest.mark.parametrize("make", [Compiled, InPlace, CompiledBlocks, Checkpointed, Reentrant, CheckpointWrapped])
def test_a_layer_of_a_compiled_or_checkpointed_encoder_is_read_in_it_and_training_is_the_same(make):
    states = []
    for callback in (layered(encoder="encoder.3"), layered(layers=("encoder.3",)), None):
        seed_everything(0)
        model = make()
        trainer(*filter(None, [callback]), max_steps=10).fit(model)
        states.append((model.state_dict(), callback and callback.history))
    assert [result.information for result in states[0][1]] == pytest.approx(
        [result.layers[0].information for result in states[1][1]], rel=1e-5
    )
    for state, _ in states[:2]:
        assert_identical(state, states[2][0])


@pytest.mark.parametrize(
    ("make", "name"), [(Deep, "encoder.3"), (Deep, "encoder.4.0"), (Deep, "encoder.4.1"), (Wrapped, "encoder.2")]
)
@pytest.mark.parametrize("inputs", ["auto", "given"])
def test_a_layer_that_is_named_as_the_encoder_has_the_values_that_it_had_as_a_layer(make, name, inputs, caplog):
    given = {"inputs": X, "views": views} if inputs == "given" else {"inputs": "auto"}
    as_layer, as_encoder = (
        probing(**given, **arguments) for arguments in ({"layers": (name,)}, {"encoder": name, "layers": None})
    )
    for callback in (as_layer, as_encoder):
        seed_everything(0)
        with caplog.at_level("INFO"):
            trainer(callback, max_steps=10).fit(make())
    expected = [next(found for found in result.layers if found.name == name) for result in as_layer.history]
    assert [result.feature_dim for result in as_encoder.history] == [found.width for found in expected]
    assert [result.information for result in as_encoder.history] == pytest.approx(
        [found.information for found in expected], rel=1e-5
    )
    assert [result.input_shape for result in as_encoder.history] == [(1, 8, 8)] * 3
    assert f"after its part `{name}`" in caplog.text


def test_a_layer_of_a_module_that_is_the_encoder_itself_is_read_in_its_forward():
    model, callback = Itself(), layered(encoder="blocks.1")
    trainer(callback, max_steps=5).fit(model)
    alone = evaluate(LayerEncoder(model, "blocks.1"), (1, 8, 8), plan=SMALL, inputs=X, views=views)
    assert callback.history[-1].information == alone.information


def test_of_a_layer_that_is_the_encoder_the_layers_are_those_before_it_and_a_resume_reads_it_again():
    first, resumed = (layered(encoder="encoder.3") for _ in range(2))
    trainer(first, SaveBefore(7), max_steps=10).fit(Deep())
    assert [names(result) for result in first.history] == [["encoder.1", "encoder.2", "encoder.3"]] * 3
    trainer(resumed, max_steps=15).fit(Deep(), ckpt_path="saved.ckpt")
    assert [names(result) for result in resumed.history] == [["encoder.1", "encoder.2", "encoder.3"]] * 4


def test_a_layer_with_the_shape_of_its_own_input_is_called_as_it_stands():
    callback = probing(encoder="encoder.3", input_shape=(16,), tasks="dc")
    model = Deep()
    trainer(callback, max_steps=5).fit(model)
    alone = evaluate(model.encoder[3], (16,), tasks="dc", plan=SMALL)
    assert callback.history[-1].scores == alone.scores


@pytest.mark.parametrize(("last", "ranked"), [(4, True), (3, False)])
def test_widths_that_are_not_comparable_are_named(last, ranked, caplog):
    with caplog.at_level("INFO"):
        trainer(layered(), max_steps=1).fit(Deep(last=last))
    (said,) = [record.message for record in caplog.records if "SynBench compares" in record.message]
    assert f"`encoder.3` (16), `encoder.4` (16), `encoder.5` ({last})" in said
    assert ("none is ranked" in said) is not ranked


def test_a_change_of_the_best_layer_is_said_where_it_is_clear_only():
    class Result:
        layer_key = "information"

        def __init__(self, first, error):
            noise = ((error, -error, error, -error),)
            self.layers = (layer("a", 8, first, noise), layer("b", 8, 4.0))

        @property
        def best_layer(self):
            from synbench_lightning.probe.layers import best_layer

            return best_layer(self.layers, "information")

    advice = LayerAdvice("synbench")
    said = [advice.probed(Result(first, error)) for first, error in ((5, 9), (5, 0.01), (6, 0.01), (3, 9), (3, 0.01))]
    assert [len(sentences) for sentences in said] == [1, 1, 0, 0, 1]
    assert "`a` now has the highest information, 1 (" in said[1][0]
    assert "`b` now has the highest information, 1 (" in said[4][0]


def test_they_are_drawn_and_reported(capsys):
    logger = TensorBoardLogger("runs")
    trainer(layered(log_figures=True), SaveBefore(9), max_steps=10, logger=logger).fit(Deep())
    assert images(shown(logger), "synbench_figures/layers")[-1] == 10
    trainer(layered(), max_steps=5, logger=TensorBoardLogger("other"), enable_checkpointing=True).fit(Deep())
    assert main(["report", "other", "--output", "page.html"]) == 0
    with open("page.html") as file:
        page = file.read()
    assert "Layers of the encoder" in page
    assert "encoder.3" in page


class Contrastive(Deep):
    """A projector and a predictor behind the encoder; what the encoder returns comes to it by way of a function."""

    between = staticmethod(lambda h: h)
    maps = False

    def __init__(self):
        super().__init__()
        if self.maps:
            blocks = [nn.Sequential(nn.Conv2d(1 if i == 0 else 16, 16, 3, padding=1), nn.ReLU()) for i in range(3)]
            self.encoder = nn.Sequential(*blocks)
        self.projector = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
        self.predictor = nn.Linear(8, 8)
        self.decoder = None

    def training_step(self, batch, batch_idx):
        first, second = (self.projector(self.between(self.encoder(x))) for x in (batch[0], batch[0] + 0.1))
        return nn.functional.mse_loss(self.predictor(first), second.detach())


def contrastive(between, maps):
    kind = type("Contrastive", (Contrastive,), {"between": staticmethod(between), "maps": maps})
    return kind()


@pytest.mark.parametrize(
    ("between", "maps"),
    [
        (lambda h: h, False),
        (lambda h: h.flatten(1), False),
        (lambda h: h.mean((2, 3)), True),
        (lambda h: nn.functional.adaptive_avg_pool2d(h, 1).flatten(1), True),
    ],
    ids=["as it is", "flattened", "mean", "pooled"],
)
def test_layers_of_heads_behind_the_encoder_are_read_and_not_ranked(between, maps):
    model, callback = contrastive(between, maps), layered(layers=("encoder.2", "projector.0", "projector", "predictor"))
    trainer(callback, max_steps=5).fit(model)
    result = callback.history[-1]
    read = ["encoder.2"] if maps else ["encoder.2", "encoder"]
    assert names(result) == [*read, "projector.0", "projector", "predictor"]
    assert [found.head for found in result.layers] == [False] * len(read) + [True] * 3
    assert result.information == result.layers[len(read) - 1].information

    model.eval()

    def whole(x):
        return model.predictor(model.projector(between(model.encoder(x))))

    alone = evaluate(whole, (1, 8, 8), plan=SMALL, inputs=X, views=views)
    assert result.layers[-1].information == pytest.approx(alone.information, rel=1e-5)
    assert result.best_layer is None or not result.best_layer.layer.head


def test_the_head_is_among_the_layers_without_an_argument_and_training_is_the_same():
    states = []
    for callback in (layered(), None):
        seed_everything(0)
        model = contrastive(lambda h: h, False)
        trainer(*filter(None, [callback]), max_steps=10).fit(model)
        states.append(model.state_dict())
        if callback is not None:
            assert names(callback.history[-1]) == [*NAMES[:-1], "encoder.5", "projector"]
    assert_identical(*states)


def test_a_head_that_is_given_something_else_than_the_output_is_refused_by_name():
    callback = layered(layers=("projector.0",))
    with pytest.raises(ValueError, match=r"'projector.0' is not called by the encoder, nor by a head"):
        trainer(callback, max_steps=1).fit(contrastive(lambda h: nn.functional.normalize(h), False))


def test_heads_are_in_the_checkpoint_and_read_after_a_resume():
    first, resumed = (layered(layers=("encoder.3", "projector.0")) for _ in range(2))
    trainer(first, SaveBefore(7), max_steps=10).fit(contrastive(lambda h: h, False))
    trainer(resumed, max_steps=15).fit(contrastive(lambda h: h, False), ckpt_path="saved.ckpt")
    assert [names(result) for result in resumed.history] == [["encoder.3", "encoder", "projector.0"]] * 4


def test_before_training_has_called_a_named_encoder_its_layers_are_read():
    model, callback = Deep(), layered(encoder="encoder", input_shape=(1, 8, 8))
    before = copy.deepcopy(model.encoder)
    trainer(callback, max_steps=1).fit(model)
    offline = evaluate(before, (1, 8, 8), plan=SMALL, inputs=X, views=views, layers="auto")
    found = callback.history[0].layers
    assert len(found) == len(offline.layers) > 2
    assert [layer.information for layer in found] == [layer.information for layer in offline.layers]
