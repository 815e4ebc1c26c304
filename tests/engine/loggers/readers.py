"""Read back what a logger really wrote, through the logger's own format or client."""

import csv
import json
import os
import re
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from image_classifier.engine.sqlite import sqlite_url

Nested = dict[str, dict[str, float]]  # {predicted: {true: value}}


class Reader:
    """What a run wrote; `run_dir` is its run directory."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def scalars(self) -> dict[str, dict[int, float]]:
        """{key: {step: value}}"""
        raise NotImplementedError

    def image(self, key: str, step: int) -> np.ndarray:
        return read_png(self.run_dir / "images" / f"{key}_step_{step}.png")

    def has_image(self, key: str) -> bool:
        return any((self.run_dir / "images").glob(f"{key}_step_*.png"))

    def table(self, key: str, step: int) -> Nested:
        return read_grid(self.run_dir / "tables" / f"{key}_step_{step}.csv")

    def beside(self, key: str, step: int) -> dict[str, float]:
        """The figures beside a table."""
        raise NotImplementedError

    def final_metrics(self) -> dict[str, float]:
        return {key.removeprefix("final/"): max(v.items())[1] for key, v in self.scalars().items() if "final/" in key}


class NoneReader(Reader):
    def scalars(self) -> dict[str, dict[int, float]]:
        return {}


class CSVReader(Reader):
    def scalars(self) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        with (self.run_dir / "csv" / "metrics.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                for key, value in row.items():
                    if value and key != "step":
                        found.setdefault(key, {})[int(row["step"])] = float(value)
        return found

    def table(self, key: str, step: int) -> Nested:
        return read_grid(self.run_dir / "csv" / f"{key}_step_{step}.csv")

    def final_metrics(self) -> dict[str, float]:
        with (self.run_dir / "csv" / "final_metrics.csv").open(newline="") as file:
            return {key: float(value) for key, value in next(csv.DictReader(file)).items()}


class TensorBoardReader(Reader):
    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        everything = {"scalars": 0, "images": 0, "tensors": 0}
        self.events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance=everything).Reload()

    def scalars(self) -> dict[str, dict[int, float]]:
        return {tag: {e.step: e.value for e in self.events.Scalars(tag)} for tag in self.events.Tags()["scalars"]}

    def image(self, key: str, step: int) -> np.ndarray:
        (event,) = (event for event in self.events.Images(key) if event.step == step)
        return read_png(BytesIO(event.encoded_image_string))

    def has_image(self, key: str) -> bool:
        return key in self.events.Tags()["images"]

    def text(self, key: str, step: int) -> str:
        (event,) = (event for event in self.events.Tensors(f"{key}/text_summary") if event.step == step)
        return event.tensor_proto.string_val[0].decode()

    def table(self, key: str, step: int) -> Nested:
        lines = [line for line in self.text(key, step).splitlines() if line.startswith("|")]
        header, _, *rows = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
        return from_grid([header, *rows])

    def beside(self, key: str, step: int) -> dict[str, float]:
        words = self.text(key, step).splitlines()[0].split(", ")
        return {name: float(value) for name, value in (word.split() for word in words)}


class WandbReader(Reader):
    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        (file,) = (run_dir / "wandb").glob("*run-*/run-*.wandb")
        self.files = file.parent / "files"
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        for record in finished_records(file):
            if record.WhichOneof("record_type") == "history":
                self.history.append(nested_items(record.history.item))
            merge(self.summary, nested_items(record.summary.update))
            merge(self.config, nested_items(record.config.update))

    def at(self, key: str, step: int) -> dict[str, Any]:
        """The row of the history that has a key at a step."""
        (row,) = (row for row in self.history if key in row and row["trainer/global_step"] == step)
        return row

    def scalars(self) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for row in self.history:
            for key, value in row.items():
                if isinstance(value, int | float) and "trainer/global_step" in row:
                    found.setdefault(key, {})[row["trainer/global_step"]] = value
        return found

    def image(self, key: str, step: int) -> np.ndarray:
        (name,) = self.at(key, step)[key]["filenames"]
        return read_png(self.files / name)

    def has_image(self, key: str) -> bool:
        return any(key in row for row in self.history)

    def table(self, key: str, step: int) -> Nested:
        return self.at(key, step)[key]

    def beside(self, key: str, step: int) -> dict[str, float]:
        row = self.at(key, step)
        return {name: row[f"{key}/{name}"] for name in ("epoch", "acc")}

    def chart(self, key: str, step: int) -> Nested:
        path = self.files / self.at(f"{key}_table", step)[f"{key}_table"]["path"]
        content = json.loads(path.read_text())
        assert content["columns"] == ["Actual", "Predicted", "nPredictions"]
        return from_grid([["true", "predicted", "value"], *content["data"]])

    def final_metrics(self) -> dict[str, float]:
        return {key.removeprefix("final/"): value for key, value in self.summary.items() if key.startswith("final/")}


class MLFlowReader(Reader):
    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(sqlite_url(f"{run_dir}/mlruns/mlflow.db"))
        experiment = self.client.get_experiment_by_name("image-classifier")
        (self.run,) = self.client.search_runs([experiment.experiment_id])

    def scalars(self) -> dict[str, dict[int, float]]:
        run_id = self.run.info.run_id
        return {
            key: {metric.step: metric.value for metric in self.client.get_metric_history(run_id, key)}
            for key in self.run.data.metrics
        }

    def artifact(self, path: str) -> Path:
        return Path(self.client.download_artifacts(self.run.info.run_id, path))

    def image(self, key: str, step: int) -> np.ndarray:
        return read_png(self.artifact(f"{key}_step_{step}.png"))

    def has_image(self, key: str) -> bool:
        folder, name = key.rsplit("/", 1)
        files = self.client.list_artifacts(self.run.info.run_id, folder)
        return any(Path(file.path).name.startswith(f"{name}_step_") for file in files)

    def table(self, key: str, step: int) -> Nested:
        return json.loads(self.artifact(f"{key}_step_{step}.json").read_text())["table"]

    def beside(self, key: str, step: int) -> dict[str, float]:
        content = json.loads(self.artifact(f"{key}_step_{step}.json").read_text())
        del content["table"]
        return content


class TrackioReader(Reader):
    """Reads the database and the pictures of the store that all runs share."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        self.store = Path(os.environ["TRACKIO_DIR"])
        self.name = "-".join(run_dir.parts[-2:])
        with closing(sqlite3.connect(self.store / "image-classifier.db")) as database:
            query = "select step, metrics from metrics where run_name = ? order by id"
            self.rows = [(step, json.loads(text)) for step, text in database.execute(query, [self.name])]
            self.configs = [
                json.loads(text)
                for (text,) in database.execute("select config from configs where run_name = ?", [self.name])
            ]

    def scalars(self) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for step, row in self.rows:
            for key, value in row.items():
                if not isinstance(value, dict):
                    found.setdefault(key, {})[step] = value
        return found

    def at(self, key: str, step: int) -> Any:
        (found,) = (row[key] for place, row in self.rows if place == step and key in row)
        return found

    def image(self, key: str, step: int) -> np.ndarray:
        return read_png(self.store / "media" / self.at(key, step)["file_path"])

    def has_image(self, key: str) -> bool:
        return any(key in row for _, row in self.rows)

    def table(self, key: str, step: int) -> Nested:
        rows = self.at(key, step)["_value"]
        return from_grid([list(rows[0]), *(list(row.values()) for row in rows)])

    def beside(self, key: str, step: int) -> dict[str, float]:
        return {name: self.at(f"{key}/{name}", step) for name in ("epoch", "acc")}


READERS: dict[str, type[Reader]] = {
    "tensorboard": TensorBoardReader,
    "wandb": WandbReader,
    "csv": CSVReader,
    "mlflow": MLFlowReader,
    "trackio": TrackioReader,
    "none": NoneReader,
}


def read_png(source: Any) -> np.ndarray:
    return np.asarray(Image.open(source).convert("RGB"))


def read_grid(path: Path) -> Nested:
    with path.open(newline="") as file:
        return from_grid(list(csv.reader(file)))


def from_grid(rows: list[list[Any]]) -> Nested:
    """A grid (rows true, columns predicted), or a list of cells, as a nested table."""
    header, *body = rows
    nested: Nested = {}
    if header == ["true", "predicted", "value"]:
        for true, predicted, value in body:
            nested.setdefault(predicted, {})[true] = float(value)
        return nested
    return {name: {row[0]: float(row[column]) for row in body} for column, name in enumerate(header) if column}


def nested_items(items: Any) -> dict[str, Any]:
    """W&B's items, of which those of a nested dictionary come apart."""
    nested: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = nested
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return nested


def merge(target: dict[str, Any], source: dict[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def finished_records(path: Path) -> list[Any]:
    """All records of a finished run; W&B's service may write the last ones a moment after `wandb.finish`."""
    for _ in range(300):
        records = list(read_wandb_records(path))
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end: its last record is {records[-1] if records else None}")


def read_wandb_records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: after 7 bytes, LevelDB's log format (blocks of 32 KiB) of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    position, payload = 7, b""
    while position + 7 <= len(content):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:  # too short for another header
            position += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if position + 7 + length > len(content):  # not written to its end yet
            return
        payload += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a full piece, or the last one
            record = Record.FromString(payload)
            payload = b""
            yield record
