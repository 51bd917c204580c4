import pytest
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from tests.callbacks.runs import probing, trainer
from tests.encoders import Autoencoder


def test_the_bar_shows_the_latest_score():
    shown = {}

    class Bar(TQDMProgressBar):
        def on_train_end(self, trainer, pl_module):
            shown.update(self.get_metrics(trainer, pl_module))
            super().on_train_end(trainer, pl_module)

    callback = probing(probe_at_end=False)
    trainer(Bar(), callback, max_steps=10, enable_progress_bar=True).fit(Autoencoder())
    assert shown["synbench"] == pytest.approx(callback.history[-1].score())


def test_a_long_probe_shows_a_bar_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr("synbench_lightning.callbacks.progress.DELAY_SECONDS", 0.0)
    trainer(TQDMProgressBar(), probing(), max_steps=5, enable_progress_bar=True).fit(Autoencoder())
    printed = capsys.readouterr().out
    assert "SynBench probe" in printed
    assert "SynBench probe" not in printed.splitlines()[-1]


def test_a_rich_bar_has_a_row_for_the_probe_while_it_runs(monkeypatch):
    monkeypatch.setattr("synbench_lightning.callbacks.progress.DELAY_SECONDS", 0.0)
    seen, bar = [], RichProgressBar()

    def encoder(module, x):
        seen.append({row.description: row.visible for row in bar.progress.tasks})
        return module.encoder(x)

    trainer(bar, probing(encoder=encoder), max_steps=5, enable_progress_bar=True).fit(Autoencoder())
    assert seen[-1]["SynBench probe"]
    assert "SynBench probe" not in [row.description for row in bar.progress.tasks]
