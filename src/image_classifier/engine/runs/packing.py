"""How arrays and pages are written: arrays as short texts in JSON, scripts that the page's own policy lets run."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

PAGES = Path(__file__).parent / "pages"
KINDS = {"int8": "i8", "int16": "i16", "int32": "i32", "float32": "f32"}


def pack(values: np.ndarray) -> str:
    """An array of one dimension as "kind:base64", little-endian."""
    kind = KINDS[values.dtype.name]
    return f"{kind}:{base64.b64encode(values.astype(values.dtype.newbyteorder('<')).tobytes()).decode()}"


def pack_classes(positions: np.ndarray, num_classes: int) -> str:
    """Positions of classes, -1 for none, in the shortest kind."""
    kind = np.int8 if num_classes < 2**7 else np.int16 if num_classes < 2**15 else np.int32
    return pack(positions.astype(kind))


def pack_whole(values: np.ndarray) -> str:
    """Whole numbers from 0 to 2**56, small ones in one byte: 7 bits a byte, the last with its highest bit unset."""
    remaining = values.astype(np.uint64)
    lengths = np.ones(len(remaining), np.int64)
    for bits in range(7, 63, 7):
        lengths += remaining >= 2**bits
    ends = np.cumsum(lengths)
    content = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    starts = ends - lengths
    for place in range(int(lengths.max(initial=0))):
        here = lengths > place
        more = lengths[here] > place + 1
        content[starts[here] + place] = (remaining[here] & 127).astype(np.uint8) | (more.astype(np.uint8) << 7)
        remaining >>= np.uint64(7)
    return f"v:{base64.b64encode(content.tobytes()).decode()}"


def pack_cells(cells: np.ndarray, counts: np.ndarray) -> dict[str, str]:
    """The cells of a matrix that are not empty: ascending positions as differences, and their counts."""
    return {"cells": pack_whole(np.diff(cells.astype(np.int64), prepend=0)), "counts": pack_whole(counts)}


def pack_names(names: Sequence[str]) -> dict[str, Any]:
    """Indices as numbers; other texts without the directory that they share."""
    if all(name.isdecimal() and len(name) < 10 for name in names):
        return {"indices": pack(np.array(names, dtype=np.int32))}
    shared = names[0]
    for name in names:
        while not name.startswith(shared):
            shared = shared[: shared.rstrip("/").rfind("/") + 1]
    shared = shared[: shared.rfind("/") + 1]
    return {"names": {"prefix": shared, "rest": [name[len(shared) :] for name in names]}}


def render_page(template: str, scripts: Sequence[str], start: str, data: Mapping[str, Any], **texts: Any) -> str:
    """A page that holds all it needs, and whose policy lets nothing in from outside.

    Args:
        template: File in `pages/`.
        scripts: Files in `pages/`, run in this order as one script.
        start: What the script does at the end, with `data`.
        data: Becomes JSON.
        texts: What the template shows; escaped.
    """
    style = (PAGES / "style.css").read_text()
    parts = [(PAGES / name).read_text().replace("'use strict';\n", "") for name in scripts]
    script = "'use strict';\n(() => {\n" + "\n".join(parts)
    script += f"\nconst data = JSON.parse(byId('data').textContent);\n{start}\n}})();\n"
    policy = (
        f"default-src 'none'; img-src data:; style-src '{digest(style)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":  # or a name could end the script
        content = content.replace(letter, f"\\u{ord(letter):04x}")
    return templates().get_template(template).render(style=style, script=script, data=content, policy=policy, **texts)


@cache  # with the compiled templates: compiling one takes longer than writing the page of a small run
def templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def digest(text: str) -> str:
    """How a policy names an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
