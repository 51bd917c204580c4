import inspect
import json
import math

import pytest
import torch
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from synbench_lightning import BenchmarkCallback, select_best
from synbench_lightning.benchmark.model_selection import Comparison, select_best_checkpoint
from synbench_lightning.cli.main import main
from tests.callbacks.runs import trainer
from tests.encoders import Autoencoder

GENERATOR = torch.Generator().manual_seed(0)
POINTS = torch.rand(400, 2, generator=GENERATOR)
TASKS = {"one": TensorDataset(POINTS[:250]), "other": TensorDataset(POINTS[250:])}


class Skilled(nn.Module):
    """Answers every point worse the larger its level and the smaller the skill."""

    def __init__(self, skill):
        super().__init__()
        self.skill = skill


def answered(module, batch):
    level, own = batch[0].T
    return -level * torch.exp(-module.skill) - 0.02 * own


def truth(skill):
    module = Skilled(torch.tensor(skill))
    return sum(answered(module, dataset.tensors).double().mean().item() for dataset in TASKS.values()) / 2


def candidates(*skills):
    return {f"skill {skill}": Skilled(torch.tensor(skill)) for skill in skills}


@pytest.mark.parametrize("method", ["clusters", "residual", "random"])
def test_the_best_is_found_from_a_tenth_of_the_points_and_the_values_are_near(method):
    skills = [0.0, 0.4, 1.5, 0.9, 0.2, 0.7]
    found = select_best(candidates(*skills), TASKS, 0.1, log_likelihood=answered, complete=2, method=method)
    assert found.best == "skill 1.5"
    assert found.rivals == ()
    assert found.complete == ("skill 0.0", "skill 0.7")
    assert (found.num_points, found.num_evaluated) == (400, 40)
    for skill, (name, value) in zip(skills, found.values.items(), strict=True):
        assert value == pytest.approx(truth(skill), abs=1e-6 if name in found.complete else 0.08)
        low, high = found.intervals[name]
        assert low - 1e-6 <= truth(skill) <= high + 1e-6


def test_candidates_that_are_alike_are_named_as_rivals():
    def noisy(module, batch):
        noise = torch.randn(len(batch[0]), generator=torch.Generator().manual_seed(int(module.skill)))
        return -batch[0][:, 0] - 0.5 * noise.abs()

    found = select_best(candidates(1.0, 2.0, 3.0, 4.0), TASKS, 0.1, log_likelihood=noisy, complete=1)
    assert len(found.rivals) >= 2
    assert "not distinguished from" in str(found)


def test_loaders_are_called_one_at_a_time_and_few_points_are_evaluated():
    calls = []

    def loader(skill):
        def load():
            calls.append(skill)
            return Skilled(torch.tensor(skill))

        return load

    seen = {}

    def counted(module, batch):
        seen[float(module.skill)] = seen.get(float(module.skill), 0) + len(batch[0])
        return answered(module, batch)

    select_best({str(s): loader(s) for s in (0.5, 1.0, 2.0)}, TASKS, 0.1, log_likelihood=counted, complete=1)
    assert sorted(calls) == [0.5, 1.0, 2.0]
    assert seen == {2.0: 400, 0.5: 40, 1.0: 40}


def test_the_checkpoints_of_a_folder_have_the_values_of_the_run(capsys):
    x = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    tasks = {"side": TensorDataset(x, (x[..., :4].mean((1, 2, 3)) > 0).long())}
    callback = BenchmarkCallback(tasks, warmup=9, every_n_train_steps=5)
    saving = ModelCheckpoint("kept/here", "{step}", save_top_k=-1, every_n_train_steps=5)
    trainer(callback, saving, max_steps=20, enable_checkpointing=True).fit(Autoencoder())
    found = select_best_checkpoint("kept", Autoencoder(), tasks, 0.5, complete=4)
    assert list(found.values) == [f"here/step={step}.ckpt" for step in (5, 10, 15, 20)]
    expected = [result.value for result in callback.history[1:]]
    assert list(found.values.values()) == pytest.approx(expected, abs=1e-5)
    assert found.best in str(found)


class Sides(Dataset):
    """Labelled images that a configuration can name."""

    def __init__(self, seed: int = 0):
        self.images = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return self.images[index], int(self.images[index, ..., :4].mean() > 0)


def test_the_function_for_a_folder_can_be_had_from_the_command_line():
    trainer(ModelCheckpoint("kept", every_n_train_steps=5), max_steps=5, enable_checkpointing=True).fit(Autoencoder())
    other = {"class_path": "tests.benchmark.test_model_selection.Sides", "init_args": {"seed": 1}}
    tasks = json.dumps({"a": "tests.benchmark.test_model_selection.Sides", "b": other})
    arguments = ["kept", "tests.encoders.Autoencoder", tasks, "--budget=0.5", "--support=30", "--method=random"]
    found = auto_cli(select_best_checkpoint, args=arguments)
    assert len(found.values) == 1
    assert found.num_points == 60


def test_the_callback_and_its_datasets_are_configured_by_lightning_cli(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    tasks = {
        "one": "tests.benchmark.test_model_selection.Sides",
        "other": {"class_path": "tests.benchmark.test_model_selection.Sides", "init_args": {"seed": 1}},
    }
    benchmark = {"tasks": tasks, "budget": 0.5, "support": 30, "warmup": 1, "every_n_train_steps": 5}
    callback = {"class_path": "synbench_lightning.BenchmarkCallback", "init_args": benchmark}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    arguments = {"fit": {"trainer": {"max_steps": 5, "callbacks": [callback], "enable_model_summary": False, **quiet}}}
    arguments["subcommand"] = "fit"
    run = LightningCLI(Autoencoder, args=arguments, save_config_callback=None, seed_everything_default=0).trainer
    (found,) = (callback for callback in run.callbacks if isinstance(callback, BenchmarkCallback))
    assert [(result.step, result.num_points) for result in found.history] == [(0, 60), (5, 30)]


def test_the_command_prints_the_comparison_and_says_what_is_wrong(capsys):
    trainer(ModelCheckpoint("kept", every_n_train_steps=5), max_steps=5, enable_checkpointing=True).fit(Autoencoder())
    arguments = [
        "kept",
        "tests.encoders.Autoencoder",
        '{"a": "tests.benchmark.test_model_selection.Sides"}',
        "--support=30",
    ]
    assert main(["best", *arguments, "--budget=0.5"]) == 0
    assert "<- best" in capsys.readouterr().out
    assert main(["best", *arguments, "--budget=7"]) == 1
    assert "synbench best: error: `budget` must be a fraction" in capsys.readouterr().err


def test_wrong_arguments_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="`candidates` must be a non-empty mapping"):
        select_best({}, TASKS)
    with pytest.raises(ValueError, match=r"`budget` must be a fraction of the items in \(0, 1\]"):
        select_best(candidates(1.0), TASKS, 0.0)
    with pytest.raises(ValueError, match="`complete` must be an integer of at least 1"):
        select_best(candidates(1.0), TASKS, complete=0, log_likelihood=answered)
    with pytest.raises(ValueError, match=r"`folder`: .* holds no file '\*\*/\*.ckpt'"):
        select_best_checkpoint(tmp_path, Autoencoder(), TASKS)


def unanswered(module, batch):
    return answered(module, batch) * (torch.nan if module.skill == 9.0 else 1.0)


@pytest.mark.parametrize("complete", [1, 2, 4])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_candidate_that_gives_no_numbers_is_left_out_by_name(complete, place):
    skills = [0.2, 0.9, 0.5]
    given = [*skills[:place], 9.0, *skills[place:]]
    with pytest.warns(UserWarning, match="The candidate 'skill 9.0' cannot be evaluated and is skipped"):
        found = select_best(candidates(*given), TASKS, 0.2, log_likelihood=unanswered, complete=complete)
    assert found.best == "skill 0.9"
    assert list(found.values) == [f"skill {skill}" for skill in skills]
    assert list(found.left_out) == ["skill 9.0"]
    assert "must be finite and at most 0" in found.left_out["skill 9.0"]
    assert "Skipped: skill 9.0: " in str(found)


def raising():
    raise OSError("the file is cut off")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (raising, "OSError: the file is cut off"),
        (lambda: None, "a candidate must be a module or a function that returns one, got a NoneType"),
        (nn.Linear(3, 3), "has no attribute 'skill'"),
    ],
)
def test_a_candidate_that_cannot_be_loaded_or_run_is_left_out_by_name(bad, reason):
    given = {**candidates(0.2, 0.9), "bad": bad}
    with pytest.warns(UserWarning, match="The candidate 'bad' cannot be evaluated"):
        found = select_best(given, TASKS, 0.2, log_likelihood=answered, complete=1)
    assert found.best == "skill 0.9"
    assert reason in found.left_out["bad"]


@pytest.mark.filterwarnings("ignore:The candidate")
def test_where_no_candidate_can_be_evaluated_the_error_names_all():
    with pytest.raises(ValueError, match=r"None of the `candidates` can be evaluated. 'a', 'b': OSError: the file is"):
        select_best({"a": raising, "b": raising}, TASKS, log_likelihood=answered)


class Augmented(Sides):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image + torch.randn_like(image), label


class Cut(Sides):
    def __getitem__(self, index):
        if index == 40:
            raise OSError("truncated file")
        return super().__getitem__(index)


class Ragged(Sides):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image[..., : 1 + index % 8], label


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Augmented(), r"`tasks`: the example \d+ of 'sides' is another one each time it is read"),
        (Cut(), r"`tasks`: the example 40 of 'sides' cannot be read. OSError: truncated file"),
        (Ragged(), r"`tasks`: 60 examples of 'sides', the first of them \d+, cannot be made a batch"),
    ],
)
@pytest.mark.filterwarnings("ignore:The candidate")
def test_a_benchmark_that_cannot_be_read_is_told_by_task_and_example(dataset, message):
    with pytest.raises(ValueError, match=message):
        select_best({"a": Autoencoder(), "b": Autoencoder()}, {"sides": dataset}, support=30)
    with pytest.raises((ValueError, RuntimeError), match=message):
        trainer(BenchmarkCallback({"sides": dataset}, support=30), max_steps=1).fit(Autoencoder())


def test_right_and_wrong_answers_are_counted_and_tasks_borrow_from_each_other():
    generator = torch.Generator().manual_seed(0)
    names = [f"task {number}" for number in range(12)]
    tasks = {name: TensorDataset(torch.randn(150, 2, generator=generator)) for name in names}

    def graded(module, batch):
        hard, noise = batch[0].T
        return (hard + 0.3 * noise < module.skill).float()

    given = candidates(*torch.linspace(-1.5, 1.5, 21).tolist())
    found = select_best(given, tasks, 0.03, log_likelihood=graded, complete=8)
    assert found.tasks == tuple(names)
    assert 0.8 < found.decision_accuracy <= 1  # of the candidates that differ in skill by a tenth of the range
    assert len(found.task_decision_accuracies) == 12
    assert f"The items rank {found.decision_accuracy:.0%} of the pairs of complete candidates" in str(found)
    off, inside = [], []
    for name, module in given.items():
        exact = [graded(module, dataset.tensors).mean().item() for dataset in tasks.values()]
        inside += [low - 1e-6 <= value <= high + 1e-6 for value, (low, high) in
                   zip(exact, found.task_intervals[name], strict=True)]  # fmt: skip
        if name in found.complete:
            assert found.task_values[name] == pytest.approx(exact)
        else:
            off += [value - true for value, true in zip(found.task_values[name], exact, strict=True)]
    # Four or five points of each task alone would be off by about .2.
    assert torch.tensor(off).square().mean().sqrt() < 0.1
    assert torch.tensor(inside).double().mean() > 0.93


@pytest.mark.parametrize(
    ("complete", "whole"), [(1, [5]), (2, [0, 5]), (3, [0, 2, 5]), (6, [0, 1, 2, 3, 4, 5]), (9, [0, 1, 2, 3, 4, 5])]
)
def test_candidates_that_are_evaluated_completely_are_spread_evenly_and_the_last_is_one(complete, whole):
    given = candidates(0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    found = select_best(given, TASKS, 0.1, log_likelihood=answered, complete=complete)
    assert found.complete == tuple(list(given)[place] for place in whole)


def test_by_default_five_are_evaluated_completely_and_a_tenth_of_the_items_for_the_others():
    found = select_best(candidates(*torch.arange(11.0).mul(0.1).tolist()), TASKS, log_likelihood=answered)
    assert len(found.complete) == 5
    assert found.num_evaluated == 40


def test_the_lead_of_the_best_is_that_on_the_items_that_all_have_seen():
    found = select_best(candidates(0.2, 0.9, 0.5), TASKS, 1.0, log_likelihood=answered, complete=3)
    assert found.best == "skill 0.9"
    for skill in (0.2, 0.5):
        low, high = found.leads[f"skill {skill}"]
        assert low == pytest.approx(high, abs=1e-6)  # of all items
        assert low == pytest.approx(truth(0.9) - truth(skill), abs=1e-5)
    assert "skill 0.9" not in found.leads
    few = select_best(candidates(0.2, 0.9, 0.5), TASKS, 0.1, log_likelihood=answered, complete=1)
    for skill in (0.2, 0.5):
        low, high = few.leads[f"skill {skill}"]
        assert low < truth(0.9) - truth(skill) < high


def test_a_comparison_is_printed_with_its_intervals_and_what_is_certain():
    found = Comparison(
        best="b",
        values={"a": -0.5, "b": -0.4, "long candidate": -0.45},
        intervals={"a": (-0.5, -0.5), "b": (-0.41, -0.39), "long candidate": (-0.5, -0.4)},
        leads={"a": (0.05, 0.15), "long candidate": (0.0, 0.1)},
        complete=("a",),
        num_points=2000,
        num_evaluated=500,
        left_out={"c": "OSError: no"},
        decision_accuracy=0.75,
    )
    assert found.rivals == ("long candidate",)
    assert str(found).splitlines() == [
        "candidate         value   95% interval",
        "a               -0.5000   all items",
        "b               -0.4000   [-0.4100, -0.3900]   <- best",
        "long candidate  -0.4500   [-0.5000, -0.4000]",
        "Best is b: not distinguished from long candidate at 95 % confidence; raise the budget. "
        "Evaluated on 25% of 2,000 items each.",
        "The items rank 75% of the pairs of complete candidates in their true order.",
        "Skipped: c: OSError: no",
    ]


def test_the_readout_is_compared_on_the_features_of_each_candidate():
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
    tasks = {"sign": TensorDataset(x, (x[:, 0] > 0).long())}

    class Keeps(nn.Module):
        def __init__(self, first):
            super().__init__()
            self.first = first

        def forward(self, x):
            return x[:, self.first :]

    found = select_best({"none": Keeps(1), "all": Keeps(0)}, tasks, 0.5, complete=2, support=50)
    assert (found.best, found.num_points) == ("all", 250)
    assert found.values["none"] == pytest.approx(-math.log(2), abs=0.15)
    assert found.values["all"] > -0.3
    with pytest.raises(ValueError, match="`support` must be an integer of at least 4, got 3"):
        select_best({"all": Keeps(0)}, tasks, support=3)
    with pytest.raises(ValueError, match="`seed` must be an integer of at least 0, got -1"):
        select_best({"all": Keeps(0)}, tasks, seed=-1)


def test_for_a_folder_the_defaults_are_those_for_candidates():
    of_folder, of_candidates = (
        {name: one.default for name, one in inspect.signature(call).parameters.items()}
        for call in (select_best_checkpoint, select_best)
    )
    shared = of_folder.keys() & of_candidates.keys()
    assert shared == {"tasks", "budget", "encoder", "support", "complete", "method", "batch_size", "seed", "device"}
    assert {name: of_folder[name] for name in shared} == {name: of_candidates[name] for name in shared}
    assert (of_folder["budget"], of_folder["support"], of_folder["complete"], of_folder["seed"]) == (0.1, 100, 5, 0)
