"""A SLURM cluster of one node, for tests: real daemons on loopback, with their files in a folder.

Nothing outside that folder is read or written, and ports are free ones, so that a machine's own
SLURM is not disturbed; root is not needed. `SLURM_CONF` tells all commands of the cluster. The
executor plugin removes that variable within jobs, so there `srun` is a script that sets it again.

On Debian: apt-get install slurm-wlm munge
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "setpriv")
# Debian keeps the daemons where users' PATH does not lead.
SEARCH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# requeued jobs wait until the credential of their last run has expired
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# what needs no control groups and no database
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
# squeue must know finished jobs until Snakemake has asked
MinJobAge=600
# seconds from the end of a job's time until it is killed
KillWait=5
# any machine will do: memory is counted, not checked
SlurmdParameters=config_overrides
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=64000
PartitionName=main Nodes=node Default=YES MaxTime=INFINITE
"""


def missing() -> list[str]:
    """The programs that a cluster needs and this machine lacks."""
    return [name for name in DAEMONS + COMMANDS if shutil.which(name, path=SEARCH) is None]


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """A running cluster; `environment` is what its users have to set."""

    def __init__(self, folder: Path):
        self.folder = folder
        bin = folder / "bin"
        self.environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": os.pathsep.join([str(bin), os.environ["PATH"]]),
        }
        for name in ("bin", "state", "spool", "munge"):
            (folder / name).mkdir(parents=True, mode=0o755)
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=socket.gethostname().split(".")[0],
                user=getpass.getuser(),
                folder=folder,
                ports=_free_ports(2),
            )
        )
        key = folder / "munge/key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        srun = bin / "srun"
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n'
        )
        srun.chmod(0o755)

    def run(self, *command: str) -> str:
        """A SLURM command's output."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """All jobs, also finished ones."""
        fields = {"id": "%i", "state": "%T", "comment": "%k", "memory": "%m", "limit": "%l"}
        form = "|".join(fields.values())
        output = self.run("squeue", "--states=all", "--noheader", f"--format={form}")
        return [dict(zip(fields, row.split("|"), strict=True)) for row in output.splitlines()]

    def _start(self, name: str, *options: str) -> subprocess.Popen:
        with open(self.folder / f"{name}.out", "w") as output:
            return subprocess.Popen(
                # gone with this process, however it ends
                ["setpriv", "--pdeathsig", "KILL", shutil.which(name, path=SEARCH), *options],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @contextlib.contextmanager
    def running(self) -> Iterator["Cluster"]:
        daemons = []
        try:
            daemons.append(
                self._start(
                    "munged",
                    "--foreground",
                    "--force",  # the folder's parents may be writable for all
                    f"--key-file={self.folder}/munge/key",
                    f"--socket={self.folder}/munge.socket",
                    f"--pid-file={self.folder}/munge/pid",
                    f"--seed-file={self.folder}/munge/seed",
                    "--num-threads=1",
                )
            )
            self._wait_for(lambda: (self.folder / "munge.socket").exists())
            daemons.append(self._start("slurmctld", "-D"))
            daemons.append(self._start("slurmd", "-D", "-N", "node"))
            self._wait_for(self._ready)
            yield self
        finally:
            self._stop(daemons)

    def _ready(self) -> bool:
        return subprocess.run(
            ["sinfo", "--noheader", "--format=%T"],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        ).stdout.startswith("idle")

    def _wait_for(self, condition) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            if time.monotonic() > deadline:
                logs = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
                raise RuntimeError("\n".join(f"{log}: {log.read_text()[-2000:]}" for log in logs))
            time.sleep(0.1)

    def _stop(self, daemons: list[subprocess.Popen]) -> None:
        """Jobs first, then the daemons, the last first."""
        if len(daemons) == len(DAEMONS):
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                self.run("scancel", "--full", "--signal=KILL", "--user", getpass.getuser())
                self._wait_for(lambda: not self.run("squeue", "--noheader"))
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
