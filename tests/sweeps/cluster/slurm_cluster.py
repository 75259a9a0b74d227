"""A Slurm cluster on this machine alone: two nodes with two pretend GPUs each, on the loopback address.

    python -m tests.sweeps.cluster.slurm_cluster FOLDER      start it, print SLURM_CONF, keep it until Ctrl-C

Needs root, and Debian's slurm-wlm and munge (installed with apt-get if COURSE_CI=1). Every file, socket and key lies in
FOLDER, the ports are free ones, and only the processes started here are ended, by their pid.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.sweeps.cluster.needs import need

NODES = ("node1", "node2")
# Four devices that exist on every Linux machine stand for GPUs; Slurm then sets CUDA_VISIBLE_DEVICES for each task.
PRETEND_GPUS = {"node1": ("/dev/null", "/dev/zero"), "node2": ("/dev/full", "/dev/random")}
START_TIMEOUT_S = 60

SLURM_CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
MaxArraySize=101
KillWait=2
InactiveLimit=0
MinJobAge=10
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
{nodes}
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """Context manager: the cluster runs inside the block. `environment` is what its commands and jobs need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> SlurmCluster:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.poll() is None:
                process.kill()
                process.wait()

    def run(self, *words: str) -> str:
        """Run a Slurm command and return what it prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def _start(self) -> None:
        programs = {name: need(name, "slurm-wlm", "munge") for name in ("slurmctld", "slurmd", "munged", "sbatch")}
        self._write_files()
        munge = [programs["munged"], "--foreground", "--force", f"--socket={self.folder}/munge.socket"]
        munge += [f"--key-file={self.folder}/munge.key", f"--pid-file={self.folder}/munge.pid"]
        munge += [f"--log-file={self.folder}/munge.log", f"--seed-file={self.folder}/munge.seed"]
        self._spawn("munged", munge)
        self._wait((self.folder / "munge.socket").exists, "munged has its socket")
        self._spawn("slurmctld", [programs["slurmctld"], "-D", "-i", "-c"])
        for node in NODES:
            self._spawn(node, [programs["slurmd"], "-D", "-N", node])
        self._wait(self._is_idle, "both nodes are idle")

    def _write_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir(exist_ok=True)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        ports = free_ports(1 + len(NODES))
        host = socket.gethostname().split(".")[0]
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=1000 Gres=gpu:2"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        text = SLURM_CONF.format(host=host, controller_port=ports[0], folder=self.folder, nodes=nodes)
        (self.folder / "slurm.conf").write_text(text)
        lines = [f"NodeName={node} Name=gpu File={file}" for node in NODES for file in PRETEND_GPUS[node]]
        (self.folder / "gres.conf").write_text("\n".join(["AutoDetect=off", *lines, ""]))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")

    def _spawn(self, name: str, command: list[str]) -> None:
        with open(self.folder / f"{name}.out", "ab") as out:
            # A session of its own: a Ctrl-C in the terminal must not end the cluster before its jobs.
            self._processes.append(
                subprocess.Popen(
                    command,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _is_idle(self) -> bool:
        done = subprocess.run(["sinfo", "-hN", "-o", "%T"], env=self.environment, capture_output=True, text=True)
        return done.stdout.split() == ["idle"] * len(NODES)

    def _wait(self, condition, what: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args[0]} ended with {process.returncode}\n{self._logs()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"after {START_TIMEOUT_S} s still not: {what}\n{self._logs()}")
            time.sleep(0.1)

    def _logs(self) -> str:
        files = [*self.folder.glob("*.out"), *self.folder.glob("*.log")]
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address without a listener."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def main() -> None:
    with SlurmCluster(Path(sys.argv[1])) as cluster:
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.pause()


if __name__ == "__main__":
    main()
