"""Checkpoint files: what is verified, what is passed over, what is refused, what is kept."""

import json
import os
import pickle
import random
import threading
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from scaledl.checkpoint import (
    CheckpointWriter,
    best_verified,
    candidates,
    check_fit,
    newest_verified,
    prune_old,
    random_state,
    read_checkpoint,
    restore_random_state,
    scan,
)
from scaledl.checkpoint.writer import Position
from scaledl.errors import ScaledlError, UsageError
from scaledl.run import sha256_file

pytestmark = pytest.mark.unit

PARTS = {"state_dict": {}, "optimizer_states": [], "callbacks": {}, "loops": {}, "val_metrics": {}}


def write(directory, step, val_loss=None):
    path = directory / f"step-{step:08d}.ckpt"
    path.write_bytes(f"content of {step}".encode() * 100)
    write_sidecar(path, step=step, val_loss=val_loss)
    return path


def write_sidecar(path, **changes):
    info = {"format": 1, "step": 0, "epoch": 0, "epoch_complete": True, "val_loss": None}
    info |= {"size": path.stat().st_size, "sha256": sha256_file(path)} | changes
    path.with_suffix(".json").write_text(json.dumps(info))


def names(paths):
    return [path.name for path in paths]


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


# Verified or passed over


def cut_short(path):
    os.truncate(path, path.stat().st_size - 1)


def change_one_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage(text):
    return lambda path: path.with_suffix(".json").write_bytes(text)


DAMAGES = {
    "cut short": (cut_short, "bytes instead of"),
    "one byte": (change_one_byte, "does not match its SHA-256"),
    "no file": (lambda path: path.unlink(), "the file is missing"),
    "no sidecar": (lambda path: path.with_suffix(".json").unlink(), "cut off"),
    "empty sidecar": (damage(b""), "is damaged"),
    "binary sidecar": (damage(b"\xff\xfe\x00"), "is damaged"),
    "list sidecar": (damage(b"[1]"), "is damaged"),
    "nested sidecar": (damage(b"[" * 100_000), "is damaged"),
    "strange sidecar": (damage(b'{"step": "x"}'), "is damaged"),
    "other step": (lambda path: write_sidecar(path, step=7), "is damaged"),
    "text for a number": (lambda path: write_sidecar(path, step=30, size="1"), "is damaged"),
    "other format": (lambda path: write_sidecar(path, step=30, format=2), "its format is 2"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_newest_gives_way_to_the_one_before_with_a_warning(tmp_path, capsys, name):
    spoil, reason = DAMAGES[name]
    write(tmp_path, 10)
    before, newest = write(tmp_path, 20), write(tmp_path, 30)
    spoil(newest)
    found = newest_verified(tmp_path)
    assert found is not None
    assert found[0] == before
    [warning] = capsys.readouterr().err.splitlines()
    assert f"passing over {newest}: " in warning
    assert reason in warning


def test_only_checkpoints_count_and_the_larger_step_is_the_newer(tmp_path, capsys):
    for name in ("settings.json", "step-x.json", "step-1.ckpt.bak", ".step-00000005.ckpt.tmp"):
        (tmp_path / name).write_text("{}")
    newer = write(tmp_path, 123_456_789)
    write(tmp_path, 99_999_999)
    assert candidates(tmp_path)[0] == newest_verified(tmp_path)[0] == newer
    assert len(scan(tmp_path)) == 2
    assert capsys.readouterr().err == ""


def test_nothing_there_is_nothing(tmp_path):
    assert newest_verified(tmp_path) is None
    assert newest_verified(tmp_path / "missing") is None
    assert best_verified(tmp_path) is None


def test_the_best_gives_way_when_it_is_damaged(tmp_path, capsys):
    for step, val_loss in ((10, 0.3), (20, 0.1), (30, 0.2), (40, None)):
        write(tmp_path, step, val_loss)
    assert best_verified(tmp_path).name == "step-00000020.ckpt"
    change_one_byte(tmp_path / "step-00000020.ckpt")
    assert best_verified(tmp_path).name == "step-00000030.ckpt"
    assert "passing over" in capsys.readouterr().err


# Retention


def test_the_newest_and_the_best_stay(tmp_path):
    for step, val_loss in ((10, 0.3), (20, 0.1), (30, 0.2), (40, None), (50, 0.4)):
        write(tmp_path, step, val_loss)
    prune_old(tmp_path, 2)
    assert names(candidates(tmp_path)) == ["step-00000050.ckpt", "step-00000040.ckpt", "step-00000020.ckpt"]
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("spoil", [cut_short, change_one_byte, lambda path: path.unlink()])
def test_nothing_goes_while_the_newest_does_not_verify(tmp_path, spoil):
    for step in (10, 20, 30):
        write(tmp_path, step)
    spoil(tmp_path / "step-00000030.ckpt")
    prune_old(tmp_path, 1)
    assert {"step-00000010.ckpt", "step-00000020.ckpt"} <= set(names(tmp_path.iterdir()))


def test_leftovers_of_killed_saves_go_once_something_newer_is_there(tmp_path):
    for step in (10, 20, 30):
        write(tmp_path, step)
    (tmp_path / "step-00000010.json").unlink()
    (tmp_path / "step-00000020.json").write_text("{")
    (tmp_path / "step-00000040.ckpt").write_text("not yet")
    prune_old(tmp_path, 1)
    assert names(candidates(tmp_path)) == ["step-00000040.ckpt", "step-00000030.ckpt"]


def writer(step, check_token=lambda: None):
    access = CheckpointWriter(nn.Linear(1, 1), keep_last=1, check_token=check_token)
    access.position = Position(step, 0, True, None)
    return access


def test_a_failed_save_keeps_the_only_checkpoint_and_is_told_when_it_is_waited_for(tmp_path):
    write(tmp_path, 10)

    def fail():
        raise ScaledlError("another attempt has taken over")

    failing = writer(20, fail)
    failing.save_checkpoint({"a": 1}, tmp_path / "step-00000020.ckpt")
    with pytest.raises(ScaledlError, match=r"taken over; step-00000010.ckpt remains, and the same command goes on"):
        failing.wait()
    failing.wait()
    assert names(tmp_path.glob("*.ckpt")) == ["step-00000010.ckpt"]
    saving = writer(30)
    saving.save_checkpoint({"a": 1}, tmp_path / "step-00000030.ckpt")
    saving.wait()
    assert names(candidates(tmp_path)) == ["step-00000030.ckpt"]
    assert newest_verified(tmp_path)[1].epoch_complete


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    held = threading.Event()
    saving = writer(5, held.wait)
    weight, shared = torch.ones(3), [torch.zeros(2), {"lr": 0.1}]
    path = tmp_path / "step-00000005.ckpt"
    saving.save_checkpoint({"weight": weight, "more": (shared, "text")}, path)
    weight += 1
    shared[0] += 1
    shared[1]["lr"] = 9.0
    held.set()
    saving.wait()
    saved = torch.load(path, weights_only=True)
    assert saved["weight"].tolist() == [1, 1, 1]
    assert saved["more"][0][0].tolist() == [0, 0]
    assert saved["more"][0][1] == {"lr": 0.1}


def test_the_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    held = threading.Event()
    saving = writer(5, held.wait)
    saving.save_checkpoint({"a": 1}, tmp_path / "step-00000005.ckpt")
    saving.raise_error()
    assert scan(tmp_path) == [], "it returned before the checkpoint was whole"
    held.set()
    saving.wait()
    assert newest_verified(tmp_path)[1].step == 5


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "step-00000005.ckpt"
    access = writer(5)
    access.save_checkpoint({"a": 1}, path)
    access.wait()
    before = path.read_bytes()
    access.save_checkpoint({"a": lambda: None}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        access.wait()
    assert path.read_bytes() == before
    assert sorted(names(tmp_path.iterdir())) == ["step-00000005.ckpt", "step-00000005.json"]


# Refused


def write_foreign(path, kind, marker):
    contents = {
        "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text("hello\n"),
        "binary": lambda: path.write_bytes(bytes(range(256)) * 4),
        "pickle": lambda: path.write_bytes(pickle.dumps(Payload(marker))),
        "old pickle": lambda: path.write_bytes(pickle.dumps(Payload(marker), protocol=0)),
        "torch pickle": lambda: torch.save({**PARTS, "callbacks": Payload(marker)}, path),
        "list": lambda: torch.save([1, 2], path),
        "tensor": lambda: torch.save(torch.ones(2), path),
        "other keys": lambda: torch.save({"model": {}}, path),
    }
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "x")
    else:
        contents[kind]()


@pytest.mark.parametrize(
    "kind",
    ["empty", "text", "binary", "zip", "pickle", "old pickle", "torch pickle", "list", "tensor", "other keys"],
)
def test_foreign_content_is_refused_unexecuted_with_one_clear_message(tmp_path, kind, recwarn):
    path, marker = tmp_path / "step-00000001.ckpt", tmp_path / "executed"
    write_foreign(path, kind, marker)
    with pytest.raises(UsageError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a scaledl checkpoint: ")
    assert "to go on from the one before" in message
    assert "weights_only" not in message
    assert "\n" not in message
    assert not marker.exists()
    assert not recwarn.list


def test_tensors_and_plain_values_are_read(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({**PARTS, "state_dict": {"w": torch.arange(3)}}, path)
    assert read_checkpoint(path)["state_dict"]["w"].tolist() == [0, 1, 2]


def without_weight(state):
    del state["0.weight"]


def with_more(state):
    state["9.weight"] = torch.ones(1)


def with_another_shape(state):
    state["0.weight"] = torch.ones(2, 3)


def with_nan(state):
    state["0.bias"][0] = float("nan")


def with_infinity(state):
    state["0.bias"][0] = float("inf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_weight, "lacks 0.weight"),
        (with_more, "also has 9.weight"),
        (with_another_shape, r"0.weight is \[2, 3\] there and \[3, 2\] here"),
        (with_nan, "0.bias contains NaN or infinite values"),
        (with_infinity, "0.bias contains NaN or infinite values"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    check_fit(tmp_path / "a.ckpt", state, module)
    change(state)
    with pytest.raises(UsageError, match=f"a.ckpt.*{message}"):
        check_fit(tmp_path / "a.ckpt", state, module)


# Random state


def draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()


def test_random_state_comes_back_through_a_file_without_pickle(tmp_path):
    before = random_state()
    np.random.randn()
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draws()
    draws()
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == expected
    restore_random_state(before)
