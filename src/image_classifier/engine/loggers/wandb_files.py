"""What lies in W&B's own files of a run, which hold all of it, online and offline."""

import contextlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK, HEADER = 32768, struct.Struct("<IHB")  # of LevelDB's log format: checksum, length, kind
STEP = "trainer/global_step"
NOT_FINITE = {text: float(text) for text in ("NaN", "Infinity", "-Infinity")}
WHOLE, LAST = 1, 4  # kinds of pieces that end a record


class EarlierRun(NamedTuple):
    """A run of W&B's in a run directory."""

    id: str
    directories: list[Path]  # of its parts, first to last
    rows: dict[int, dict[str, Any]]  # {number of W&B's own count: {key: value}}, in order

    @property
    def last_row(self) -> int:
        """Number of the last one; -1 without one."""
        return max(self.rows, default=-1)

    def values(self, lost_from: int | None = None) -> dict[str, dict[int, Any]]:
        """{key: {step of the training: value}}; of the rows that the server lost, numbers alone.

        Args:
            lost_from: Number of the first row that the server does not have; None where it has all.
        """
        found: dict[str, dict[int, Any]] = {}
        for number, row in self.rows.items():
            is_lost = lost_from is not None and number >= lost_from
            for key, value in (numbers_of(row) if is_lost else row).items():
                if STEP in row and key != STEP and not key.startswith("_"):
                    found.setdefault(key, {})[row[STEP]] = value
        return found

    def lost(self, lost_from: int) -> list[dict[str, Any]]:
        """The numbers of the rows that the server does not have."""
        return [numbers_of(row) for number, row in self.rows.items() if number >= lost_from and STEP in row]


def numbers_of(row: dict[str, Any]) -> dict[str, Any]:
    """What is no picture and no table, without W&B's own."""
    named = {key: NOT_FINITE.get(str(value), value) for key, value in row.items() if not key.startswith("_")}
    return {key: value for key, value in named.items() if isinstance(value, int | float)}


def earlier_run(directory: Path) -> EarlierRun | None:
    """The last run that lies in `<run_dir>/wandb`, with all its parts; None without one."""
    files = sorted(directory.glob("*run-*/run-*.wandb"), key=lambda path: path.parent.name.partition("run-")[2])
    if not files:
        return None
    run_id = files[-1].stem.removeprefix("run-")
    files = [path for path in files if path.stem == f"run-{run_id}"]
    rows: dict[int, dict[str, Any]] = {}
    for path in files:
        part = dict(rows_of(path))
        # Where a part goes on, the server had no more rows than those before: the others were logged again.
        rows = {number: row for number, row in rows.items() if number < min(part, default=number + 1)} | part
    return EarlierRun(run_id, [path.parent for path in files], rows)


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a `.wandb` file and their numbers."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item  # of a table or a picture one for each part: only that it is there counts
            row = {
                item.key or item.nested_key[0]: {} if len(item.nested_key) > 1 else json.loads(item.value_json)
                for item in items
            }
            yield max(int(row.get("_step", -1)), record.history.step.num), row


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
