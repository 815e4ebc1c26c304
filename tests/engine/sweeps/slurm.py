"""A real Slurm on this machine, for tests: controller, node daemon and authentication in one directory, no systemd.

Needs Slurm and munge (scripts/system_packages.py), and the right to start daemons as root.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=main Nodes={host} Default=YES
"""

# There is no accounting database here, so `sacct` is answered from the controller, which forgets nothing for minutes.
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
scontrol -o show job 2>/dev/null | sed -nE \\
    -e 's/^JobId=([0-9]+) ArrayJobId=([0-9]+) ArrayTaskId=([0-9]+) .*JobState=([A-Z_]+).*/\\2_\\3|\\4|/p;t' \\
    -e 's/^JobId=([0-9]+) .*JobState=([A-Z_]+).*/\\1|\\2|/p'
"""


@contextmanager
def slurm(directory: Path) -> Iterator[dict[str, str]]:
    """Start Slurm; gives the environment in which its commands find it, and stops it at the end."""
    host = socket.gethostname().split(".")[0]
    controller_port, node_port = free_ports(2)
    for name in ("state", "spool", "bin"):
        (directory / name).mkdir()
    (directory / "slurm.conf").write_text(CONFIGURATION.format(**locals()))
    sacct = directory / "bin" / "sacct"
    sacct.write_text(SACCT)
    sacct.chmod(0o755)
    key = directory / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    environment = {
        **os.environ,
        "SLURM_CONF": str(directory / "slurm.conf"),
        "PATH": f"{directory}/bin:{os.environ['PATH']}:/usr/sbin",
    }
    with ExitStack() as stack:
        files = {
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "munge.seed",
        }
        options = [f"--{option}={directory}/{name}" for option, name in files.items()]
        start(["munged", "--force", f"--key-file={key}", *options], environment)
        stack.callback(stop, directory / "munged.pid")
        for daemon in (["slurmctld", "-c"], ["slurmd"]):
            start(daemon, environment)
            stack.callback(stop, directory / f"{daemon[0]}.pid")
        wait_until_idle(environment)
        stack.callback(cancel_jobs, environment)
        yield environment


def start(command: list[str], environment: dict[str, str]) -> None:
    program = shutil.which(command[0], path=environment["PATH"])
    assert program, f"{command[0]} is missing: scripts/system_packages.py"
    # Without a terminal's pipes: a daemon would keep them open.
    subprocess.run([program, *command[1:]], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=30)


def stop(pid_file: Path) -> None:
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)


def cancel_jobs(environment: dict[str, str]) -> None:
    subprocess.run(["scancel", "--full", "--signal=KILL", "--user=root"], env=environment, check=False)
    wait_until_idle(environment)


def wait_until_idle(environment: dict[str, str]) -> None:
    end = time.monotonic() + 60
    state = ""
    while state != "idle":
        assert time.monotonic() < end, f"Slurm is not ready; its node is {state or 'unknown'}"
        time.sleep(0.1)
        query = ["sinfo", "-h", "-o", "%T"]
        state = subprocess.run(query, env=environment, capture_output=True, text=True).stdout.strip()


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
