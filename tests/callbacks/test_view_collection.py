"""`SynBenchCallback(inputs="auto")`: which views are found, when, and what is kept over a resume."""

import time

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from synbench_lightning import SynBenchEarlyStopping
from synbench_lightning.callbacks import reread_views, view_collection
from tests.callbacks.runs import probing, steps, trainer
from tests.callbacks.test_information import Large
from tests.callbacks.test_views import Pairs, Stream
from tests.encoders import Autoencoder
from tests.integration.test_resume import SaveBefore


def auto(**arguments):
    return probing(**{"inputs": "auto", "tasks": "dc", **arguments})


class Noisy(Dataset):
    """Examples with noise in each reading."""

    def __init__(self, length=80, scale=0.3):
        self.x = torch.randn(length, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        self.scale = scale

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + self.scale * torch.randn(1, 8, 8), index % 2


class Augmented(Autoencoder):
    length, scale = 80, 0.3

    def train_dataloader(self):
        return DataLoader(Noisy(self.length, self.scale), batch_size=8, shuffle=True)


@pytest.fixture
def log(caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        yield caplog


def identities(callback):
    return {result.inputs for result in callback.history if result.inputs is not None}


def test_two_runs_with_one_seed_have_the_same_views_and_with_another_seed_others():
    found = []
    for seed in (0, 0, 1):
        callback = auto(seed=seed)
        trainer(callback, max_steps=2).fit(Augmented())
        found.append(identities(callback))
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 1


@pytest.mark.parametrize("kept", [2**25, 0], ids=["from the checkpoint", "read again"])
@pytest.mark.parametrize("make", [Augmented, Large], ids=["views", "noise"])
def test_a_resumed_run_goes_on_with_the_same_views(monkeypatch, make, kept):
    monkeypatch.setattr(view_collection, "KEPT_BYTES", kept)
    first, resumed = auto(), auto()
    trainer(first, SaveBefore(7), max_steps=10).fit(make())
    (state,) = torch.load("saved.ckpt", weights_only=True)["callbacks"].values()
    assert ("plan" in state["views"]) == (kept == 0)
    monkeypatch.setattr(reread_views, "INPUT_FORWARDS", 512)  # where another number would be read by now
    seed_everything(3)
    trainer(resumed, max_steps=20).fit(make(), ckpt_path="saved.ckpt")
    assert steps(resumed) == [0, 5, 10, 15, 20]
    assert identities(resumed) == identities(first)


def test_views_of_steps_are_kept_over_a_resume(log):
    first, resumed = auto(), auto()
    trainer(first, SaveBefore(7), max_steps=10).fit(Pairs())
    assert "60 training examples in 2 views each, as training fed them to the encoder" in log.text
    assert [result.information_kind for result in first.history] == [None, "pairs", "pairs"]
    assert "other arguments" not in log.text
    examples = torch.stack([torch.stack(one[:2]) for one in Stream()][20:])  # of the first epoch, but its first step
    pairs = torch.stack([view[0].args[0] for view in first._information_inputs.collection.inputs.views], 1)
    assert torch.equal(pairs, examples.half())
    seed_everything(0)
    trainer(resumed, max_steps=20).fit(Pairs(), ckpt_path="saved.ckpt")
    assert steps(resumed) == [0, 5, 10, 15, 20]
    assert identities(resumed) == identities(first)


def test_a_stop_on_information_waits_for_the_views():
    stop = SynBenchEarlyStopping("synbench/information", patience=50)
    trainer(auto(), stop, max_steps=10).fit(Pairs())
    assert stop.best_score > 0


@pytest.mark.parametrize("length", [31, 32])
def test_32_examples_are_enough_and_fewer_are_not(log, length):
    make = type("Few", (Augmented,), {"length": length})
    callback = auto()
    trainer(callback, max_steps=3).fit(make())
    assert (callback.history[0].information is not None) == (length == 32)
    assert ("31 examples were found, at least 32 are needed" in log.text) == (length == 31)


def test_another_run_reads_its_own_examples():
    callback = auto()
    trainer(callback, max_steps=2).fit(Augmented())
    before = identities(callback)
    trainer(callback, max_steps=2).fit(type("Other", (Augmented,), {"scale": 0.2})())
    assert not before & identities(callback)


class StopWithViews(Callback):
    """Ends a run, of steps that take 10 ms at least, once information was measured."""

    def __init__(self, callback):
        self.callback = callback

    def on_train_batch_end(self, trainer, *_):
        time.sleep(0.01)
        trainer.should_stop = self.callback.history[-1].information is not None


def test_reading_is_deferred_until_max_overhead_allows_it(monkeypatch):
    monkeypatch.setattr(view_collection, "LEAST_SECONDS", 0.01)
    callback = auto(max_overhead=0.9, every=5)
    trainer(callback, StopWithViews(callback), max_steps=5000).fit(Augmented())
    assert callback.history[0].information is None  # not under the first step
    assert callback.history[-1].information_kind == "views"
    never = auto(max_overhead=1e-9, every=2)
    trainer(never, max_steps=6).fit(Augmented())
    assert identities(never) == set()


def test_views_that_change_next_to_nothing_trigger_a_warning():
    make = type("Little", (Augmented,), {"scale": 0.01})
    with pytest.warns(UserWarning, match="differ by only"):
        trainer(auto(), max_steps=1).fit(make())


def test_inputs_that_cannot_be_measured_on_end_no_run(log):
    class Constant(Large):
        def train_dataloader(self):
            return DataLoader(TensorDataset(torch.zeros(80, 1, 8, 8)), batch_size=8)

    callback = auto()
    trainer(callback, max_steps=2).fit(Constant())
    assert steps(callback) == [0, 2]
    assert "it is not measured on 80 training examples: `inputs` must be finite and vary" in log.text


def test_an_encoder_that_fails_on_the_views_is_probed_without_them():
    def picky(module, x):
        if len(x) == 80:
            raise RuntimeError("no batch of 80")
        return module.encoder(x)

    callback = auto(encoder=picky, input_shape=(1, 8, 8))
    with pytest.warns(UserWarning, match="`synbench/information` is not measured on training examples: .*no batch"):
        trainer(callback, max_steps=2).fit(Augmented())
    assert [result.information for result in callback.history] == [None, None]


def test_a_callable_encoder_and_a_named_one_have_the_views_of_the_batch():
    for encoder in ("encoder", lambda module, x: module.encoder(x)):
        callback = auto(encoder=encoder)
        trainer(callback, max_steps=2).fit(Augmented())
        assert callback.history[0].information_kind == "views"


def test_where_the_encoder_was_not_seen_and_nothing_can_be_read_it_is_said(log):
    class NotSeen(Pairs):
        example_input_array = torch.zeros(2, 1, 8, 8)

    trainer(auto(encoder=lambda module, x: module.encoder(x)), max_steps=2).fit(NotSeen())
    assert "it is not measured: examples cannot be read again: Stream is a stream" in log.text


class StreamOf(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


class Texts(LightningModule):
    """A bag of words over texts of 32 tokens, a share of which are masked when a batch is made."""

    masked, length, stream = 0.0, 96, False

    def __init__(self):
        super().__init__()
        self.encoder = nn.EmbeddingBag(100, 16)

    def train_dataloader(self):
        ids = torch.randint(1, 100, (self.length, 32), generator=torch.Generator().manual_seed(0))
        return DataLoader(StreamOf(ids) if self.stream else ids, batch_size=8, collate_fn=self.batch)

    def batch(self, examples):
        ids = torch.stack(examples)
        return torch.where(torch.rand(ids.shape) < self.masked, 0, ids)

    def training_step(self, batch, batch_idx):
        return self.encoder(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.parametrize(
    ("masked", "why"), [(0.3, ""), (0.0, ", since training reads an example without any randomness")]
)
def test_what_is_said_of_texts_gives_a_reason_only_where_nothing_is_random(log, masked, why):
    callback = auto(encoder="encoder")
    trainer(callback, max_steps=2).fit(type("Masked", (Texts,), {"masked": masked})())
    said = "96 training examples in 4 parts each, which share no token (assuming one text per row)"
    assert f"{said}{why}. With fewer than 512 texts the estimate is unreliable." in log.text
    assert callback.history[0].information is not None


@pytest.mark.parametrize("stream", [False, True])
def test_512_texts_are_read_and_as_many_are_collected_from_a_stream(log, stream):
    callback = auto(encoder="encoder", every=70)
    trainer(callback, max_steps=70).fit(type("Many", (Texts,), {"length": 600, "stream": stream})())
    assert "on 512 training examples in 4 parts each" in log.text
    assert "Fewer than" not in log.text
    assert callback.history[-1].information is not None
    views = callback._information_inputs.collection.inputs.views
    distinct = {tuple(row) for part in views for row in part[0].args[0].tolist()}
    assert len(distinct) == 4 * 512


class OneLength(nn.Module):
    """A position for each of 32 tokens; shorter rows are padded, or refused."""

    def __init__(self, pads):
        super().__init__()
        self.embedding, self.position, self.pads = nn.Embedding(100, 16), nn.Parameter(torch.randn(32, 16)), pads

    def forward(self, ids):
        if self.pads:
            ids = nn.functional.pad(ids, (0, 32 - ids.shape[1]))
        return (self.embedding(ids) + self.position).relu().mean(1)


@pytest.mark.parametrize("pads", [False, True])
def test_an_encoder_that_takes_one_length_only_has_no_parts_of_texts_and_what_to_do_is_said(recwarn, pads):
    module = Texts()
    module.encoder = OneLength(pads)
    callback = auto()
    trainer(callback, max_steps=2).fit(module)
    assert (callback.history[-1].information is not None) == pads
    refused = [str(one.message) for one in recwarn if "The encoder failed on" in str(one.message)]
    assert bool(refused) != pads
    assert all("If the encoder requires a fixed length, pad them in its `forward`" in text for text in refused)


class Recolored(Dataset):
    """Patterns on a ground of another color in each reading; of other examples where ``shuffled``."""

    shuffled = False

    def __init__(self):
        coarse = torch.randn(160, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        self.cover = nn.functional.interpolate(coarse, 8, mode="bilinear").sigmoid()

    def __len__(self):
        return len(self.cover)

    def __getitem__(self, index):
        index = int(torch.randint(160, ())) if self.shuffled else index
        ground, ink = torch.randn(2, 3, 1, 1)
        return ground + (ink - ground) * self.cover[index].roll(tuple(torch.randint(-1, 2, (2,)).tolist()), (1, 2))


class RecoloredRun(Autoencoder):
    shuffled = False

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 16))
        self.decoder = nn.Linear(16, 192)

    def train_dataloader(self):
        dataset = Recolored()
        dataset.shuffled = self.shuffled
        return DataLoader(dataset, batch_size=8)

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self.decoder(self.encoder(batch)), batch.flatten(1))


@pytest.mark.parametrize("shuffled", [False, True])
def test_views_in_other_colors_are_found_and_examples_that_do_not_come_back_are_not(log, shuffled):
    callback = auto()
    trainer(callback, max_steps=1).fit(type("Run", (RecoloredRun,), {"shuffled": shuffled})())
    assert ("128 training examples, each read 16 times" in log.text) != shuffled
    assert ("an example that is read again is no nearer to itself than to others" in log.text) == shuffled


class Written(Dataset):
    """Examples, and a file with a byte for each reading of one; random where ``random``."""

    def __init__(self, path, random):
        self.path, self.random = path, random
        self.x = torch.randn(128, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return 128

    def __getitem__(self, index):
        with self.path.open("ab") as file:
            file.write(b".")
        return self.x[index] + self.random * torch.randn(1, 8, 8), 0


class InStep(Autoencoder):
    def __init__(self, dataset):
        super().__init__()
        self.dataset, self.scale = dataset, 0.0 if dataset.random else 0.3

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=32)

    def training_step(self, batch, batch_idx):
        x = batch[0] + self.scale * torch.randn_like(batch[0])
        return nn.functional.mse_loss(self.decoder(self.encoder(x)), batch[0].flatten(1))


@pytest.mark.parametrize("random", [0.0, 0.3])
def test_examples_are_read_once_where_the_step_augments_and_sixteen_times_where_the_dataset_does(tmp_path, random):
    callback = auto()
    trainer(callback, max_steps=1).fit(InStep(Written(tmp_path / "readings", random)))
    views = callback._information_inputs.collection.inputs.views
    assert len({tuple(view[0].args[0].flatten().tolist()) for view in views}) == len(views) == 16
    readings = (tmp_path / "readings").stat().st_size / 128
    assert readings >= 16 if random else readings < 8  # the first two, and those that were read ahead
