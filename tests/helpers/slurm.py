"""A Slurm of one node on loopback, started for a test and stopped after it."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "squeue", "scancel", "munged", "setpriv")

CONFIGURATION = """ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
SlurmctldPort={port}
SlurmdPort={next}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/d
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why none can be started here, or None."""
    if os.getuid() != 0:
        return "Slurm on loopback is started by root alone"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return f"no {lacking[0]} here (packages slurmctld, slurmd, slurm-client, munge)" if lacking else None


@contextmanager
def started(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which it is reached."""
    host, port = socket.gethostname().partition(".")[0], 20000 + os.getpid() % 10000
    for name in ("ctld", "d"):
        (folder / name).mkdir(parents=True)
    config = folder / "slurm.conf"
    config.write_text(CONFIGURATION.format(host=host, port=port, next=port + 1, folder=folder, cores=os.cpu_count()))
    environment = os.environ | {"SLURM_CONF": str(config), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    subprocess.run("install -d -o munge -g munge -m 755 /run/munge", shell=True, check=True)
    munge = "pgrep -x munged || setpriv --reuid=munge --regid=munge --clear-groups munged"
    subprocess.run(munge, shell=True, check=True, env=environment, stdout=subprocess.DEVNULL)
    try:
        for program in ("slurmctld", "slurmd"):
            subprocess.run([program], check=True, env=environment)
        _until_idle(environment)
        yield environment
    finally:
        for file in folder.glob("*.pid"):
            subprocess.run(["kill", file.read_text().strip()], check=False)


def _until_idle(environment: dict[str, str]) -> None:
    for _ in range(100):
        answer = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, env=environment)
        if "idle" in answer.stdout:
            return
        time.sleep(0.2)
    raise AssertionError("no node of Slurm became idle")
