"""train_net.py with weights files that are missing or dangerous."""

import pickle

from input_errors import ANY, check_error
from weights_files import MakesFolder


def test_the_command_refuses_dangerous_and_missing_files(own_data, monkeypatch):
    (own_data.folder / "a.pkl").write_bytes(pickle.dumps({"w": MakesFolder()}))
    monkeypatch.chdir(own_data.folder)
    for flags in ([], ["--eval-only"]):
        error = own_data.error(monkeypatch, *flags, "MODEL.WEIGHTS=a.pkl")
        check_error(error, "a.pkl", "refused", ".mkdir", key=ANY)
    error = own_data.error(monkeypatch, "MODEL.WEIGHTS=b.pth")
    check_error(error, "MODEL.WEIGHTS", "'b.pth'", key=ANY)
    assert not (own_data.folder / "executed").exists()
