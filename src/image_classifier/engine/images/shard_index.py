"""What is known of shards, kept beside them for later runs: where pictures lie, and what each was found to be.

Of `00000.tar` that is `.index/00000.tar.places.npz` and `.index/00000.tar.facts.npz`. Both hold for the very file that
they were made from, by its stamp from before it was read; where there is another one now, or none can be written,
everything is found out anew. They may be removed at any time.
"""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import PIL

from image_classifier.engine.images.picture_sets import Stamp, stamp
from image_classifier.engine.images.pictures import Facts

FOLDER = ".index"
LAYOUT = 1  # of the files; another number makes the former ones unknown
FACT = np.dtype([("offset", "i8"), ("digest", "u8"), ("width", "i4"), ("height", "i4"), ("mode", "S8"), ("good", "?")])


class Places(NamedTuple):
    """Where the pictures of a shard lie."""

    spans: np.ndarray  # (N, 2) int64: offset and size
    labels: Sequence[str]  # of each
    skipped: Mapping[str, int]  # what else is in the shard: counts by reason
    stamp: Stamp | None  # of the shard, from before it was looked through


class Known(NamedTuple):
    """What pictures of a shard were found to be."""

    facts: np.ndarray  # (N,) of FACT, ordered by offset
    errors: Mapping[int, str]  # why one cannot be decoded, by offset


NOTHING = Known(np.zeros(0, dtype=FACT), {})


def read_places(shard: Path, label: str, made_of: Stamp | None) -> Places | None:
    """The places that are kept; None where there are none of the file with this stamp and label."""
    found = load(shard, "places", label, made_of)
    if found is None:
        return None
    arrays, words = found
    texts = np.array(words["texts"], dtype=object)
    return Places(arrays["spans"], texts[arrays["codes"]].tolist(), Counter(words["skipped"]), made_of)


def keep_places(shard: Path, label: str, places: Places) -> None:
    codes = {text: code for code, text in enumerate(dict.fromkeys(places.labels))}
    arrays = {"spans": places.spans, "codes": np.array([codes[text] for text in places.labels], dtype=np.int32)}
    words = {"texts": list(codes), "skipped": dict(places.skipped)}
    save(shard, "places", label, places.stamp, arrays, words)


def read_facts(shard: Path, made_of: Stamp | None) -> Known:
    """What is kept of the pictures of a shard with this stamp, as far as this version of Pillow found it out."""
    found = load(shard, "facts", PIL.__version__, made_of)
    if found is None:
        return NOTHING
    arrays, words = found
    return Known(arrays["facts"], {int(offset): reason for offset, reason in words["errors"].items()})


def keep_facts(shard: Path, known: Known, made_of: Stamp | None) -> None:
    """Keep facts beside those of other pictures of the shard, which had this stamp before it was read."""
    before = read_facts(shard, made_of)
    others = before.facts[~np.isin(before.facts["offset"], known.facts["offset"])]
    facts = np.concatenate([others, known.facts])
    errors = {str(offset): reason for offset, reason in {**before.errors, **known.errors}.items()}
    arrays = {"facts": facts[facts["offset"].argsort()]}
    save(shard, "facts", PIL.__version__, made_of, arrays, {"errors": errors})


def facts_of(notes: np.ndarray) -> list[Facts | None]:
    columns = (notes[name].tolist() for name in ("width", "height", "mode", "good"))
    return [
        Facts(width, height, mode.decode()) if good else None
        for width, height, mode, good in zip(*columns, strict=True)
    ]


# One kind of files for both: arrays, and words in JSON.


def path_of(shard: Path, kind: str) -> Path:
    return shard.parent / FOLDER / f"{shard.name}.{kind}.npz"


def key_of(told: str, made_of: Stamp | None) -> list[Any]:
    """What must be the same for a file to hold; `told` is what it depends on besides the shard."""
    return [LAYOUT, told, *(made_of or ())]


def load(
    shard: Path, kind: str, told: str, made_of: Stamp | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    try:
        with np.load(path_of(shard, kind), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        words = json.loads(arrays.pop("words").tobytes())
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None
    return (arrays, words) if words["key"] == key_of(told, made_of) else None


def save(
    shard: Path, kind: str, told: str, made_of: Stamp | None, arrays: dict[str, Any], words: dict[str, Any]
) -> None:
    """Write a file as a whole or, where the folder cannot be written or the shard is another by now, not at all."""
    if made_of is None or stamp(shard) != made_of:
        return
    path = path_of(shard, kind)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # several processes may write the same
    text = json.dumps(words | {"key": key_of(told, made_of)}).encode()
    try:
        path.parent.mkdir(exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, words=np.frombuffer(text, dtype=np.uint8), **arrays)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
