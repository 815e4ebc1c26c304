"""What lies in W&B's own files of a run, which hold all of it, online and offline."""

import contextlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK, HEADER = 32768, struct.Struct("<IHB")  # of LevelDB's log format: checksum, length, kind
WHOLE, LAST = 1, 4  # kinds of pieces that end a record


class EarlierRun(NamedTuple):
    """A run of W&B's in a run directory."""

    id: str
    directories: list[Path]  # of its parts, first to last
    values: dict[str, dict[int, Any]]  # {key: {step of the training: value}}
    last_row: int  # of W&B's own count; -1 without one


def earlier_run(directory: Path) -> EarlierRun | None:
    """The last run that lies in `<run_dir>/wandb`, with all its parts; None without one."""
    files = sorted(directory.glob("*run-*/run-*.wandb"), key=lambda path: path.parent.name.partition("run-")[2])
    if not files:
        return None
    run_id = files[-1].stem.removeprefix("run-")
    files = [path for path in files if path.stem == f"run-{run_id}"]
    values: dict[str, dict[int, Any]] = {}
    last_row = -1
    for path in files:
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item  # of a nested value one for each part
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
                last_row = max(last_row, int(row.get("_step", -1)), record.history.step.num)
                for key, value in row.items():
                    if "trainer/global_step" in row and key != "trainer/global_step" and not key.startswith("_"):
                        values.setdefault(key, {})[row["trainer/global_step"]] = value
    return EarlierRun(run_id, [path.parent for path in files], values, last_row)


def records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: after 7 bytes, LevelDB's log format of protocol buffers. A kill cuts it off."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    content = path.read_bytes()
    position, payload = 7, b""
    while position + HEADER.size <= len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:  # too short for another header
            position += left
            continue
        _, length, kind = HEADER.unpack_from(content, position)
        position += HEADER.size
        if position + length > len(content):
            return
        payload += content[position : position + length]
        position += length
        if kind in (WHOLE, LAST):
            with contextlib.suppress(DecodeError):
                yield Record.FromString(payload)
            payload = b""
