"""Which points of a benchmark to evaluate: the error of each method as a multiple of that of random drawing.

    python -m tests.benchmarks.points                      # digits and a language model: minutes
    python -m tests.benchmarks.points --responses FOLDER   # and answers of other people's models

The matrices: log-likelihoods of seven labelled tasks over a contrastive pretraining run on digits
(``examples/digits_benchmark.py``); log-likelihoods of characters of held-out text, in four tasks, over the training of
a small recurrent language model on Python's own documentation; of both also whether the likelihood is above a half.
Each time the first 10, or half, of the checkpoints are complete and the others are predicted. ``--responses`` takes a
folder of CSV files, one for each task, with a row of 0 and 1 for each model, as ``data`` in the public repository
nyu-mll/nlu-test-sets (Vania et al., Comparing test sets with item response theory, 2021): up to 400 items of each are
used, half of the model families are complete, and the others are predicted.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor, nn

from synbench_lightning.functional.benchmark.estimation import mean_of_tasks
from synbench_lightning.functional.benchmark.prediction import choose_points, predict_tasks
from synbench_lightning.functional.benchmark.selection import Selection, proportional

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


def error(selections: list[Selection], matrix: Matrix) -> float:
    """Root mean square error of the benchmark over the predicted evaluations and the draws."""
    _, before, after, tasks = matrix
    truth = torch.stack([after[:, tasks == task].mean(1) for task in range(int(tasks.max()) + 1)]).mean(0)
    found = [
        mean_of_tasks(predict_tasks(after[:, chosen.indices], chosen, before, tasks)).value for chosen in selections
    ]
    return float((torch.stack(found) - truth).square().mean().sqrt())


def compare(matrices: list[Matrix], draws: int) -> None:
    print(f"\n{matrices[0][0]}: {len(matrices)} matrices, {draws} draws of each")
    print(f"{'':22}" + "".join(f"{f'{budget:.0%} of points':>18}" for budget in BUDGETS))
    table: dict[str, list[str]] = {"random": [], "residual": [], "loss": [], "clusters": []}
    for budget in BUDGETS:
        ratios: dict[str, list[float]] = {name: [] for name in table}
        for matrix in matrices:
            _, before, _, tasks = matrix
            points = max(round(budget * len(tasks)), 2 * (int(tasks.max()) + 1))
            loss = -before[-5:].mean(0).clamp_max(0)
            ways = {
                "random": [choose_points(before, tasks, points, "random", seed) for seed in range(draws)],
                "residual": [choose_points(before, tasks, points, "residual", seed) for seed in range(draws)],
                "loss": [proportional(loss, tasks, points, seed) for seed in range(draws)],
                "clusters": [choose_points(before, tasks, points, "clusters", 0)],
            }
            errors = {name: error(selections, matrix) for name, selections in ways.items()}
            for name, value in errors.items():
                ratios[name].append(value if name == "random" else value / errors["random"])
        for name, values in ratios.items():
            table[name].append(f"{np.mean(values):.4g} ± {np.std(values):.2g}")
    for name, cells in table.items():
        shown = f"{name} (error)" if name == "random" else f"{name} (ratio)"
        print(f"{shown:22}" + "".join(f"{cell:>18}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare ways to choose the points of a benchmark.")
    parser.add_argument("--responses", type=Path, help="folder of CSV files with answers of models")
    parser.add_argument("--seeds", type=int, default=3, help="runs, and splits of models (default: 3)")
    parser.add_argument("--draws", type=int, default=10, help="selections of each method (default: 10)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sources: dict[str, list[Matrix]] = {}
    for seed in range(args.seeds):
        found = [*of_a_run("language model", *language_model(seed)), *of_a_run("digits", *digits(seed))]
        found += [] if args.responses is None else [of_models(args.responses, seed)]
        for matrix in found:
            sources.setdefault(matrix[0], []).append(matrix)
    for matrices in sources.values():
        compare(matrices, args.draws)


if __name__ == "__main__":
    main()
