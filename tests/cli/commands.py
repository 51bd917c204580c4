"""The command run in this process, and a module of encoders for it to find."""

import importlib
import json

from synbench_lightning.cli import main
from tests.callbacks.runs import trainer

ENCODERS = """
import torch
from torch import nn
from tests.encoders import Autoencoder

def make(width: int = 16, scale: float = 1.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, width))
    encoder[1].weight.data *= scale
    return encoder

def deep():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 16))

def lossy():
    encoder = make()
    encoder[1].weight.data[4:] *= 0.001
    return encoder

def needs(width: int):
    return make(width)

def function():
    return lambda x: x.flatten(1)

def shifted(batch):
    return batch + torch.randn(len(batch), 1, 1, 1)

def halved(batch):
    return batch[::2]

def broken():
    raise KeyError("out of luck")

def number():
    return 3

class Failing(nn.Module):
    def forward(self, x):
        raise IndexError("no such layer")

class Wide(Autoencoder):
    def __init__(self, width: int = 32, start: float = 0.0):
        super().__init__()
        self.save_hyperparameters()
        self.trunk = nn.ModuleDict({"deep": nn.Sequential(nn.Flatten(), nn.Linear(64, width))})

def talkative():
    print("Loaded the model in 0.1 seconds")
    return make()

def scripted():
    return torch.jit.script(make())

def interrupted():
    raise KeyboardInterrupt

ready = make()
constant = 7
"""

SHAPE = ["--input-shape", "1", "8", "8"]

QUICK = ["--forwards", "768", *SHAPE]


def run(capsys, *arguments):
    try:
        code = main(["evaluate", *arguments])
    except SystemExit as exit:
        code = exit.code
    found = capsys.readouterr()
    return code, found.out, found.err


def scores(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def checkpoint(name="wide.ckpt", **arguments):
    module = importlib.import_module("encoders").Wide(**arguments)
    fit = trainer(max_steps=2)
    fit.fit(module)
    fit.save_checkpoint(name)
    return module
