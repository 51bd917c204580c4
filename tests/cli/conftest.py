import sys

import pytest

from tests.cli.commands import ENCODERS


@pytest.fixture
def a_folder_with_encoders(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr("synbench_lightning.cli.encoder_evaluation.default_folder", lambda: tmp_path / "cache")
    (tmp_path / "encoders.py").write_text(ENCODERS)
    (tmp_path / "raising.py").write_text("import nothing_of_that_name\n")
    yield
    sys.modules.pop("encoders", None)
