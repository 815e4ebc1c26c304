"""Starts Python programs as `subprocess` does, but as children of one process that has imported the libraries.

Such a start takes a tenth of a second instead of ten. Only the libraries are there already: the project's own code is
imported by the child, from where the program finds it. The ranks that a program starts are forked as well. What is of
interest at the start of a process itself (its imports, what its environment says to Python or to a library that is
imported) needs a process of its own.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

LIBRARIES = (
    *("torch", "torchvision.transforms.v2", "torchmetrics.classification", "pytorch_lightning", "timm", "hydra.main"),
    *("matplotlib.backends.backend_agg", "matplotlib.font_manager", "PIL.Image", "PIL.ImageDraw", "PIL.ImageFont"),
    *("scipy.signal", "jinja2", "rich.table", "torch.utils.tensorboard", "hydra._internal.instantiate._instantiate2"),
    *("hydra.core.plugins", "filelock", "torch._dynamo", "torch.distributed.run"),
)
LARGEST_REQUEST = 200_000  # bytes


class Process:
    """A running program, with the part of the interface of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool = True,
        process_group: int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        assert str(command[0]) == sys.executable and text
        self.returncode: int | None = None
        self.opened = [os.open(os.devnull, os.O_RDWR)]  # here, for the program
        self.stdout, output = self.stream(stdout, 1)
        self.stderr, errors = (None, output) if stderr == subprocess.STDOUT else self.stream(stderr, 2)
        request = {
            "command": [str(argument) for argument in command[1:]],
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "own_group": process_group is not None,
            "kept": list(pass_fds),
        }
        self.connection = connect(server_address())
        descriptors = [self.opened[0], output, errors, *pass_fds]
        socket.send_fds(self.connection, [json.dumps(request).encode()], descriptors)
        for descriptor in self.opened:
            os.close(descriptor)
        self.pid = int(self.connection.recv(100))

    def stream(self, asked: int | IO[Any] | None, own: int) -> tuple[IO[str] | None, int]:
        """What is read here, and the file that the program writes to."""
        if asked == subprocess.PIPE:
            reader, writer = os.pipe()
            self.opened.append(writer)
            return os.fdopen(reader, errors="replace"), writer
        if asked == subprocess.DEVNULL:
            return None, self.opened[0]
        return None, own if asked is None else asked if isinstance(asked, int) else asked.fileno()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self.connection], [], [], 0)[0]:
            self.returncode = int(self.connection.recv(100))
            self.connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self.connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a forked program", timeout or 0)
        status = self.poll()
        assert status is not None
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        read: dict[str, str] = {}
        streams = {"stdout": self.stdout, "stderr": self.stderr}
        threads = [
            threading.Thread(target=lambda name=name, file=file: read.update({name: file.read()}), daemon=True)
            for name, file in streams.items()
            if file is not None
        ]
        end = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
            if thread.is_alive():  # somebody who outlives the program holds its output open
                raise subprocess.TimeoutExpired("a forked program", timeout or 0)
        return read.get("stdout", ""), read.get("stderr", "")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    command: Sequence[str | Path],
    *,
    check: bool = False,
    capture_output: bool = False,
    timeout: float | None = None,
    **settings: Any,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with text."""
    if capture_output:
        settings |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = Process(command, **settings)
    try:
        output, errors = process.communicate(timeout)
    finally:
        process.kill()
    status = process.wait()
    if check and status:
        raise subprocess.CalledProcessError(status, [*map(str, command)], output, errors)
    return subprocess.CompletedProcess([*map(str, command)], status, output, errors)


@cache
def server_address() -> str:
    """Where this process's server listens. It ends with this process."""
    address = f"{tempfile.mkdtemp(prefix='forked-')}/socket"
    server = subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    )
    assert server.stdout and server.stdout.readline() == "ready\n"
    server.stdout.close()
    server_address.process = server  # type: ignore[attr-defined]  # its stdin stays open as long as this process lives
    return address


def connect(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    return connection


# The server.


def serve(address: str) -> None:
    import atexit
    import gc

    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # a child's collections would look at, and so copy, all of this
    atexit.register(gc.unfreeze)  # else triton says at the end that it leaks
    gc.disable()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    running: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that tells when it is over
    while True:
        ready = select.select([sys.stdin, listener, *running], [], [])[0]
        for over in set(ready) & set(running):
            pid, connection = running.pop(over)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.close(over)
            with contextlib.suppress(OSError), connection:
                connection.send(str(status).encode())
        if listener in ready:
            connection, _ = listener.accept()
            message, descriptors, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 100)
            pid = os.fork()
            if pid == 0:
                for descriptor in (listener.fileno(), connection.fileno(), *running):
                    os.close(descriptor)
                for _, other in running.values():
                    other.close()
                become(json.loads(message), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            running[os.pidfd_open(pid)] = pid, connection
            connection.send(str(pid).encode())
        if sys.stdin in ready:
            shutil.rmtree(Path(address).parent)
            return


def become(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Be the program that is asked for, in a child."""
    import atexit
    import gc

    status = 1
    try:
        standard, kept = descriptors[:3], descriptors[3:]
        for number, descriptor in [*enumerate(standard), *zip(request["kept"], kept, strict=True)]:
            os.dup2(descriptor, number)
            os.set_inheritable(number, True)
        for descriptor in set(descriptors) - {0, 1, 2, *request["kept"]}:
            os.close(descriptor)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
        if request["own_group"]:
            os.setpgid(0, 0)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        gc.enable()
        spawn = multiprocessing.get_context
        multiprocessing.get_context = lambda method=None: spawn("fork" if method == "spawn" else method)  # type: ignore[assignment]
        if threads := os.environ.get("OMP_NUM_THREADS"):
            import torch

            torch.set_num_threads(int(threads))
        status = status_of(request["command"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the end of a program does
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def status_of(command: list[str]) -> int:
    """Run a program: a script, `-c` and code, or `-m` and a module, with its arguments."""
    searched = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    first = "" if command[0].startswith("-") else str(Path(command[0]).resolve().parent)
    sys.path[:] = [first, *searched, *sys.path[1:]]
    try:
        if command[0] == "-c":
            sys.argv = ["-c", *command[2:]]
            module = type(sys)("__main__")
            sys.modules["__main__"] = module
            exec(compile(command[1], "<string>", "exec"), module.__dict__)
        elif command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
