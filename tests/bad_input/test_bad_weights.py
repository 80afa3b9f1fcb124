"""train_net.py with weights files that are missing or dangerous."""

import pickle

from input_errors import check_error
from weights_files import MakesFolder


def test_the_command_refuses_dangerous_and_missing_files(own_data, monkeypatch):
    (own_data.folder / "a.pkl").write_bytes(pickle.dumps({"w": MakesFolder()}))
    monkeypatch.chdir(own_data.folder)
    for flags in ([], ["--eval-only"]):
        error = own_data.error(monkeypatch, *flags, "MODEL.WEIGHTS=a.pkl")
        check_error(error, "a.pkl", "refused", ".mkdir")
    error = own_data.error(monkeypatch, "MODEL.WEIGHTS=b.pth")
    check_error(error, "'b.pth' cannot be opened", key="MODEL.WEIGHTS", value="b.pth")
    assert not (own_data.folder / "executed").exists()
