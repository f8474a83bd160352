"""Trials for TensorBoard's HPARAMS tab: `tensorboard --logdir SEARCH/trials` compares points and figures.

Event files are written without torch and without a writer's thread. No experiment is declared: TensorBoard then gathers
keys and metrics from all trials, so a key that only some trials have is not lost.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from scaledl.run.events import FILE_VERSION, write_event
from scaledl.tune.study import Trial

# Sorts behind the files of the training, so that a TensorBoard that looks on reads it after them.
EVENTS = "events.out.tfevents.hparams"


def write_hparams(search_run_path: Path, trial: Trial, objectives: Sequence[str] | Mapping[str, str]) -> Path | None:
    """Write point, state and figures of a trial that has ended; once more writes the same file again.

    None where the trial left no folder, or the disk takes nothing more: all of it stands in the journal too.
    """
    folder = search_run_path / "trials" / f"{trial.number:04d}"
    if not folder.is_dir():
        return None
    path = folder / "tensorboard" / EVENTS
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_events(trial, list(objectives)))
        return path
    return None


def figures(trial: Trial, objectives: Sequence[str]) -> dict[str, float]:
    """A trial's objectives; of one that was stopped those that it had by then."""
    last = {objectives[0]: trial.curve[max(trial.curve)]} if trial.curve else {}
    known = {**last, **trial.extra, **dict(zip(objectives, trial.values, strict=False))}
    return {name: known[name] for name in objectives if name in known and math.isfinite(known[name])}


def _events(trial: Trial, objectives: Sequence[str]) -> bytes:
    from tensorboard.compat.proto.summary_pb2 import Summary

    ended = trial.ended or trial.started
    values = [*_session(trial, ended)]
    values += [
        Summary.Value(tag=f"objective/{name}", simple_value=value) for name, value in figures(trial, objectives).items()
    ]
    content = io.BytesIO()
    write_event(content, wall_time=ended, file_version=FILE_VERSION)
    write_event(content, wall_time=ended, step=trial.epochs, summary=Summary(value=values))
    return content.getvalue()


def _session(trial: Trial, ended: float) -> list[Any]:
    """Beginning and end as the HPARAMS plugin stores them."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

    start = SessionStartInfo(group_name=f"trial {trial.number:04d}", start_time_secs=trial.started)
    for name, value in {**trial.point, "trial.state": trial.state}.items():
        kind, plain = _plain(value)
        setattr(start.hparams[name], kind, plain)
    worked = trial.state in ("complete", "stopped")
    end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS if worked else api_pb2.STATUS_FAILURE, end_time_secs=ended)
    contents = {
        metadata.SESSION_START_INFO_TAG: HParamsPluginData(session_start_info=start),
        metadata.SESSION_END_INFO_TAG: HParamsPluginData(session_end_info=end),
    }
    return [
        Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR)
        for tag, content in contents.items()
    ]


def _plain(value: Any) -> tuple[str, bool | float | str]:
    """Field of the message, and the value: lists, mappings and null as JSON."""
    if isinstance(value, bool):
        return "bool_value", value
    if isinstance(value, int | float):
        return "number_value", float(value)
    return "string_value", value if isinstance(value, str) else json.dumps(value)
