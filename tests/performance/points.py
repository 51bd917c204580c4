"""Which points of a benchmark to evaluate, and what to make of them: errors as multiples of those of random drawing.

    python -m tests.performance.points                      # digits and a language model: minutes
    python -m tests.performance.points --responses FOLDER   # and answers of other people's models

The matrices: log-likelihoods of seven labelled tasks over a contrastive pretraining run on digits
(``examples/digits_benchmark.py``); log-likelihoods of characters of held-out text, in four tasks, over the training of
a small recurrent language model on Python's own documentation; of both also whether the likelihood is above a half.
Each time the first 10, or half, of the checkpoints are complete and the others are predicted. ``--responses`` takes a
folder of CSV files, one for each task, with a row of 0 and 1 for each model, as ``data`` in the public repository
nyu-mll/nlu-test-sets (Vania et al., Comparing test sets with item response theory, 2021): up to 400 items of each are
used, half of the model families are complete, and the others are predicted.

``random`` and ``loss`` are drawn and averaged without item response models, each task from its own points alone; the
others as the package predicts. Where answers are right or wrong, four published ways with the same item parameters
stand beside them (``published.py``).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from synbench_lightning.functional.benchmark.confidence_intervals import mean_of_tasks
from synbench_lightning.functional.benchmark.prediction import choose_points, predict_tasks, related
from synbench_lightning.functional.benchmark.selection import Selection, proportional
from tests.performance.published import PUBLISHED, task_means

BUDGETS = (0.01, 0.02, 0.05, 0.1)
ITEMS = 400
Matrix = tuple[str, Tensor, Tensor, Tensor]
"""Name, complete evaluations (T, n), those to be predicted (M, n), task of each point (n,)."""


class CharacterModel(nn.Module):
    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding, self.recurrent = nn.Embedding(characters, 64), nn.GRU(64, 192, batch_first=True)
        self.head = nn.Linear(192, characters)

    def forward(self, text: Tensor) -> Tensor:
        logits: Tensor = self.head(self.recurrent(self.embedding(text))[0])
        return logits


def language_model(seed: int) -> tuple[Tensor, Tensor]:
    """Log-likelihoods (30, 4000) of characters after 64 others, and their kind: space, first letter, letter, other."""
    torch.manual_seed(seed)
    text = "\n".join(topics[key] for key in sorted(topics))
    characters = sorted(set(text))
    data = torch.tensor([characters.index(character) for character in text])
    train, held_out = data.split([int(0.8 * len(data)), len(data) - int(0.8 * len(data))])
    items = torch.stack([held_out[at - 64 : at + 1] for at in torch.randint(64, len(held_out) - 1, (4000,)).tolist()])

    def kind(last: str, before: str) -> int:
        return 0 if last.isspace() else 3 if not last.isalpha() else 2 if before.isalpha() else 1

    tasks = torch.tensor([kind(characters[item[-1]], characters[item[-2]]) for item in items])
    order = tasks.argsort(stable=True)
    items, tasks = items[order], tasks[order]
    model, curves = CharacterModel(len(characters)), []
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step in range(1161):
        if step % 40 == 0:
            with torch.no_grad():
                logits = torch.cat([model(batch[:, :-1])[:, -1] for batch in items.split(500)])
            curves.append(torch.log_softmax(logits, -1).gather(1, items[:, -1:])[:, 0])
        batch = torch.stack([train[at : at + 65] for at in torch.randint(0, len(train) - 65, (32,)).tolist()])
        loss = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.stack(curves), tasks


def digits(seed: int) -> tuple[Tensor, Tensor]:
    sys.path.append(str(Path(__file__).parents[2] / "examples"))
    from digits_benchmark import pretrain

    run = pretrain(seed)
    return run.curves, run.tasks


def of_a_run(name: str, curves: Tensor, tasks: Tensor) -> Iterator[Matrix]:
    curves = curves.double()
    right = (curves > np.log(0.5)).double() - 1
    for warmup in (10, len(curves) // 2):
        yield f"{name}, log-likelihoods, {warmup} complete", curves[:warmup], curves[warmup:], tasks
        yield f"{name}, right or wrong, {warmup} complete", right[:warmup], right[warmup:], tasks


def of_models(folder: Path, split: int) -> Matrix:
    files = []
    for file in sorted(folder.glob("*.csv")):
        rows = list(csv.reader(file.open()))[1:]
        files.append({row[0]: [float(answer) for answer in row[1:]] for row in rows})
    names = sorted(set.intersection(*(set(file) for file in files)))
    rng = np.random.default_rng(0)
    answers, tasks = [], []
    for task, file in enumerate(files):
        found = torch.tensor([file[name] for name in names], dtype=torch.float64) - 1
        chosen = torch.from_numpy(rng.permutation(found.shape[1])[:ITEMS])
        answers.append(found[:, chosen])
        tasks.append(torch.full((len(chosen),), task))
    rng = np.random.default_rng(split)
    families = [name.rpartition("_")[0] for name in names]
    known = {str(family) for family in rng.permutation(sorted(set(families)))[: len(set(families)) // 2]}
    mine = torch.tensor([family in known for family in families])
    whole = torch.cat(answers, 1)
    order = torch.from_numpy(rng.permutation(int(mine.sum())))
    return "models, right or wrong", whole[mine][order], whole[~mine], torch.cat(tasks)


class Errors(NamedTuple):
    """Of the benchmark and of its tasks, root mean squares; of the order of evaluations."""

    benchmark: float
    tasks: float
    spearman: float
    regret: float


def errors(values: list[Tensor], of_tasks: list[Tensor], matrix: Matrix) -> Errors:
    """Errors over the predicted evaluations and the draws of values ``(M,)`` and those of tasks ``(M, K)``."""
    _, _, after, tasks = matrix
    each = task_means(after, tasks)
    truth, found = each.mean(1), torch.stack(values)
    order = [float(spearmanr(value, truth).statistic) for value in values]
    return Errors(
        float((found - truth).square().mean().sqrt()),
        float((torch.stack(of_tasks) - each).square().mean().sqrt()),
        float(np.mean(order)),
        float((truth.max() - truth[found.argmax(1)]).mean()),
    )


def of_the_tool(selections: list[Selection], matrix: Matrix, items: bool = True) -> Errors:
    """As :class:`BenchmarkCallback` predicts; without item response models and tasks that borrow if not ``items``."""
    _, before, after, tasks = matrix
    values, of_tasks = [], []
    for chosen in selections:
        # One more evaluation with an answer that is neither right nor wrong lets no item response model apply.
        known = before if items else torch.cat([before[:1] - 1e-9, before])
        found = predict_tasks(after[:, chosen.indices], chosen, known, tasks)
        drawn = related(found, chosen, before, tasks) if items else found
        values.append(mean_of_tasks(found).value)
        of_tasks.append(torch.stack([task.value for task in drawn], 1))
    return errors(values, of_tasks, matrix)


def compare(matrices: list[Matrix], draws: int) -> None:
    table: dict[str, dict[float, list[Errors]]] = {}
    for budget in BUDGETS:
        for matrix in matrices:
            _, before, after, tasks = matrix
            points = max(round(budget * len(tasks)), 2 * (int(tasks.max()) + 1))
            loss = -before[-5:].mean(0).clamp_max(0)
            random = [choose_points(before, tasks, points, "random", seed) for seed in range(draws)]
            found = {
                "random": of_the_tool(random, matrix, items=False),
                "residual": of_the_tool(
                    [choose_points(before, tasks, points, "residual", seed) for seed in range(draws)], matrix
                ),
                "loss": of_the_tool([proportional(loss, tasks, points, seed) for seed in range(draws)], matrix, False),
                "clusters": of_the_tool([choose_points(before, tasks, points, "clusters", 0)], matrix),
            }
            if bool(((before == before.min()) | (before == before.max())).all()):
                known, new = before - before.min(), after - before.min()
                for name, way in PUBLISHED.items():
                    seeds = range(1 if name in ("informative", "adaptive, items") else draws)
                    shifted = [way(known, new, tasks, points, seed) + float(before.min()) for seed in seeds]
                    found[name] = errors([one.mean(1) for one in shifted], shifted, matrix)
            for name, measured in found.items():
                table.setdefault(name, {}).setdefault(budget, []).append(measured)
    print(f"\n{matrices[0][0]}: {len(matrices)} matrices, {draws} draws of each")
    for place, measure in enumerate(Errors._fields):
        print(f"{measure:22}" + "".join(f"{f'{budget:.0%} of points':>18}" for budget in BUDGETS))
        for name, by_budget in table.items():
            cells = []
            for budget, each in by_budget.items():
                values = np.array([one[place] for one in each])
                if measure in ("benchmark", "tasks") and name != "random":
                    values = values / np.array([one[place] for one in table["random"][budget]])
                cells.append(f"{np.mean(values):.3g} ± {np.std(values):.2g}")
            kind = "" if measure in ("spearman", "regret") else " (error)" if name == "random" else " (ratio)"
            print(f"{name + kind:22}" + "".join(f"{cell:>18}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare ways to choose the points of a benchmark.")
    parser.add_argument("--responses", type=Path, help="folder of CSV files with answers of models")
    parser.add_argument("--seeds", type=int, default=3, help="runs, and splits of models (default: 3)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--only-responses", action="store_true", help="neither digits nor the language model")
    parser.add_argument("--draws", type=int, default=10, help="selections of each method (default: 10)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sources: dict[str, list[Matrix]] = {}
    for seed in range(args.first, args.first + args.seeds):
        found: list[Matrix] = []
        if not args.only_responses:
            found += [*of_a_run("language model", *language_model(seed)), *of_a_run("digits", *digits(seed))]
        found += [] if args.responses is None else [of_models(args.responses, seed)]
        for matrix in found:
            sources.setdefault(matrix[0], []).append(matrix)
    for matrices in sources.values():
        compare(matrices, args.draws)


if __name__ == "__main__":
    main()
