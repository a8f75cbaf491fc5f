"""How a job is started: torchrun's command for each machine, a Slurm batch file, a Kubernetes job.

All three start torchrun once on each machine, with the settings without which it is not dependable on several. Slurm
and Kubernetes say which machines there are; torchrun does the rest. The batch file is checked by bash and run against
stand-ins for Slurm's own commands, the job is checked as YAML; neither has been run on a cluster.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machines:
    """Which machines, and how torchrun is to treat them."""

    addresses: tuple[str, ...]
    ranks_per_machine: int
    interface: str
    port: int
    max_restarts: int
    fewest: int

    def settings(self) -> dict[str, str]:
        """The environment without which a job of several machines is not dependable."""
        return {
            # else the sockets are opened at whatever address the host's name has, often 127.0.0.1
            "GLOO_SOCKET_IFNAME": self.interface,
            "NCCL_SOCKET_IFNAME": self.interface,
            # else a restarted job reads the addresses of the one that failed (pytorch#167288)
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }

    def options(self, name: str, endpoint: str, is_host: str, address: str) -> list[str]:
        """What torchrun is told: the last three differ from machine to machine."""
        many = len(self.addresses)
        return [
            f"--nnodes={many if self.fewest == many else f'{self.fewest}:{many}'}",
            f"--nproc-per-node={self.ranks_per_machine}",
            f"--max-restarts={self.max_restarts}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={endpoint}",
            f"--rdzv-id={name}",
            # else no machine may find itself in the endpoint, and all of them wait (pytorch#73656)
            f"--rdzv-conf=is_host={is_host}",
            # else the host's name is announced, which the others may not resolve
            f"--local-addr={address}",
        ]

    def words(self, machine: int, name: str, python: str = "python") -> list[str]:
        """torchrun's command on one machine, up to the program it runs."""
        options = self.options(
            name, f"{self.addresses[0]}:{self.port}", str(int(machine == 0)), self.addresses[machine]
        )
        return [python, "-m", "torch.distributed.run", *options]

    def command(self, machine: int, name: str, program: str) -> str:
        return shlex.join(
            ["env", *(f"{k}={v}" for k, v in self.settings().items()), *self.words(machine, name), program]
        )


def slurm_batch(folder: Path, machines: Machines) -> str:
    """Write the batch file for `sbatch`: one task on each node, which is torchrun."""
    # ours are shell words that must stay as they are, such as $SLURM_NODEID: quoted where they are written
    options = machines.options("$SLURM_JOB_ID", f"$first:{machines.port}", "$is_host", "$here")
    settings = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in machines.settings().items())
    return f"""#!/bin/bash
# Start it with: sbatch {shlex.quote(str(folder / "job.sbatch"))}
# Partition, account, time and GPUs are your cluster's: add them here, such as #SBATCH --time=01:00:00
#SBATCH --job-name={_name(folder)}
# so many machines
#SBATCH --nodes={len(machines.addresses)}
# one task on each: torchrun, which starts the ranks there
#SBATCH --ntasks-per-node=1
# a core for each rank; take more where data is loaded
#SBATCH --cpus-per-task={machines.ranks_per_machine}
# put it into the queue again when a node fails: the worker goes on from its checkpoints
#SBATCH --requeue

# end at the first line that fails, and at a name that is not set
set -eu
# the interface between the nodes (ip address), and a store of its own for each restart
{settings}
# a rank's own threads; more of them than cores make every rank slow
export OMP_NUM_THREADS=1
# where the ranks meet: the first node of those that Slurm has given
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export first
# on every node: is it the first, what is its address, and torchrun
# --kill-on-bad-exit=1: one node that fails ends the others, and the job has its exit code
srun --kill-on-bad-exit=1 bash -c '
is_host=$((SLURM_NODEID == 0))
here=$(hostname -I | cut -d " " -f 1)
exec {_in_single_quotes(_command(options, folder / "job.py"))}
'
"""


def kubernetes_job(folder: Path, machines: Machines) -> str:
    """Write the file for `kubectl apply -f`: an indexed job of a pod per machine, and the name by which they meet."""
    name, many = _name(folder), len(machines.addresses)
    options = machines.options(name, f"{name}-0.{name}:{machines.port}", "$is_host", "$POD_IP")
    settings = "\n".join(
        f"            - {{name: {key}, value: {_quoted('eth0' if value == machines.interface else value)}}}"
        for key, value in (machines.settings() | {"OMP_NUM_THREADS": "1"}).items()
    )
    return f"""# Start it with: kubectl apply -f job.yaml; what rank 0 prints: kubectl logs job/{name}
# A service without an address of its own: it gives each pod the name {name}-INDEX.{name}
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  clusterIP: None
  selector:
    job-name: {name}
  # a pod has its name before it is ready: it is ready only once all have met
  publishNotReadyAddresses: true
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  # a pod for each machine, all at once, each knowing its number (JOB_COMPLETION_INDEX)
  completions: {many}
  parallelism: {many}
  completionMode: Indexed
  # pods that fail are replaced so often; the worker goes on from its checkpoints
  backoffLimit: {machines.max_restarts}
  template:
    spec:
      subdomain: {name}
      # a pod that failed is not started again in its place, but counted, and replaced
      restartPolicy: Never
      containers:
        - name: ranks
          # yours: an image with llmlab
          image: llmlab:latest
          env:
            # pods see each other through eth0
{settings}
            # this pod's own address
            - name: POD_IP
              valueFrom:
                fieldRef:
                  fieldPath: status.podIP
          command:
            - bash
            - -c
            - |
              is_host=$((JOB_COMPLETION_INDEX == 0))
              exec {_command(options, folder / "job.py")}
          resources:
            requests:
              # a core for each rank
              cpu: {_quoted(str(machines.ranks_per_machine))}
          volumeMounts:
            - name: job
              mountPath: {_quoted(str(folder))}
      volumes:
        # yours: a volume that all pods see, with the job's folder and its checkpoints
        - name: job
          persistentVolumeClaim:
            claimName: {name}
"""


def _command(options: Sequence[str], program: Path) -> str:
    """torchrun's command, in double quotes wherever the shell is to fill in a name."""
    return " ".join(
        ["python -m torch.distributed.run", *(f'"{option}"' for option in options), shlex.quote(str(program))]
    )


def _in_single_quotes(text: str) -> str:
    return text.replace("'", "'\\''")


def _quoted(text: str) -> str:
    """YAML's double quotes take JSON's escapes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _name(folder: Path) -> str:
    """A name that Slurm and Kubernetes take: small letters, digits and dashes, at most 40, a letter first."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:40].strip("-")
    return name if name[:1].isalpha() else f"job-{name}".rstrip("-")
