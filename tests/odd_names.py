"""Names of files and directories that mean something to a shell, Hydra, a URL, rich or a terminal, and some more."""

import os
import subprocess

ODD_NAMES = [
    *("plain", "a b", "it's", 'q"q', "back\\slash", "e=q", "c,d", "[b]", "{c}", "a (1)", "h#h", "50%", "%20", "q?q"),
    *("a&b", "s;c", "$d", "x!", "st*r", "til~de", "hat^", "`t`", "p|p", "<l>", "col:on", "c::d", "@at", "p+l", "%j"),
    *("\N{GRINNING FACE}", "jürgen", "שלום", "new\nline", "t\tab", "-dash", "dot.", "x" * 200, " lead", "trail ", "\\"),
    *("file:x", ":smile:", "[/red]", "[bold]", "\x1b[31m", "2024", "1e3", "null", "true", "007", 'it\'s "both"', "~"),
]
# All at once, each a directory in the one before it; without the long one, which SQLite would not take.
ODD_PATH = "/".join(name for name in ODD_NAMES if len(name) < 100)


def read_by_bash(text: str) -> list[str]:
    """The arguments that bash makes of a text that was printed."""
    script = f"printf '%s\\0' {text}"
    done = subprocess.run(["bash", "-c", script], env={"LC_ALL": "C.UTF-8"}, capture_output=True, check=True)
    return [os.fsdecode(argument) for argument in done.stdout.split(b"\0")[:-1]]
