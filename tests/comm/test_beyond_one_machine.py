"""Several machines, on this one: two agents of torchrun, in network namespaces of their own where root may make them, a
rank that is killed, and the files for resource managers.
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

import llmlab as lab
from llmlab.commands import main
from tests.comm.test_torchrun import environment, free_port  # noqa: F401, a fixture

TRAINING = '''
import json, os, signal
from pathlib import Path
import llmlab as lab
from tests.checkpoint.runs import batch, make_step

def worker(world, folder, dies="-1"):
    """Eight steps; rank 1 is killed once, before step `dies`."""
    folder = Path(folder)
    step, losses = make_step(world, lab.Layout(dp=world.size, zero=1, microbatches=2)), []
    for n in lab.checkpoint.Checkpoints(folder / "runs", every=2).steps(8, step, state={"losses": losses}):
        if world.rank == 1 and n == int(dies) and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        losses.append(float(step(*batch(n))))
    weights = {name: value.flatten().tolist() for name, value in step.state_dict().items()}
    if world.rank == 0:
        (folder / "result.json").write_text(json.dumps([losses, weights]))
    print("done", world.rank, "of", world.size)
'''


@dataclass(frozen=True)
class Machine:
    """How a program is started there, its own address, and the interface that has it."""

    enter: tuple[str, ...]
    address: str
    interface: str


@pytest.fixture(scope="module")
def machines():
    """Two network namespaces joined by a cable, where root may make them; else twice this machine's loopback."""
    if not shutil.which("ip") or os.geteuid() != 0 or not _ip(f"netns add llmlab0-{os.getpid()}"):
        yield [Machine((), "127.0.0.1", "lo")] * 2
        return
    names = [f"llmlab{i}-{os.getpid()}" for i in range(2)]
    try:
        cable = f"link add cable0 netns {names[0]} type veth peer name cable0 netns {names[1]}"
        assert _ip(f"netns add {names[1]}") and _ip(cable)
        for i, name in enumerate(names):
            for words in (f"address add 10.77.0.{i + 1}/24 dev cable0", "link set cable0 up", "link set lo up"):
                assert _ip(f"-n {name} {words}")
        yield [Machine(("ip", "netns", "exec", name), f"10.77.0.{i + 1}", "cable0") for i, name in enumerate(names)]
    finally:
        for name in names:  # the cable goes with them
            _ip(f"netns delete {name}")


def _ip(words: str) -> bool:
    return subprocess.run(["ip", *words.split()], capture_output=True).returncode == 0


@pytest.fixture
def program(tmp_path):
    file = tmp_path / "training.py"
    file.write_text(TRAINING)
    return file


def result(folder: Path):
    return json.loads((folder / "result.json").read_text())


def test_two_agents_train_as_the_simulator_and_one_process_though_a_rank_is_killed(tmp_path, program, machines):
    for name in ("agents", "simulated", "one"):
        (tmp_path / name).mkdir()
    log = [(tmp_path / f"log-{number}").open("w+") for number in range(2)]
    agents = [
        subprocess.Popen(
            [
                *machine.enter, sys.executable, "-m", "llmlab", "run",
                "--addresses", *(each.address for each in machines), "--interface", machine.interface,
                "--machine", str(number), "--port", "29683", "--restarts", "2",
                str(program), str(tmp_path / "agents"), "5",
            ],
            stdout=log[number], stderr=subprocess.STDOUT, env=environment(), text=True,
        )
        for number, machine in enumerate(machines)
    ]  # fmt: skip
    sys.path.append(str(tmp_path))
    try:
        from training import worker

        lab.Simulator(2, kernels=False).run(worker, tmp_path / "simulated")
        lab.Simulator(1, kernels=False).run(worker, tmp_path / "one")
    finally:
        sys.path.remove(str(tmp_path))
        codes = [agent.wait(timeout=280) for agent in agents]
    said = [(file.seek(0), file.read(), file.close())[1] for file in log]
    assert codes == [0, 0], said
    assert (tmp_path / "agents" / "died").exists()
    assert sorted(line for text in said for line in text.splitlines() if line.startswith("done")) == [
        "done 0 of 2", "done 1 of 2",
    ]  # fmt: skip
    (losses, weights), (single, their_weights) = result(tmp_path / "agents"), result(tmp_path / "one")
    assert [losses, weights] == result(tmp_path / "simulated")  # the same layout: to the bit
    assert losses == pytest.approx(single, rel=1e-11)  # fp64, sums in another order, eight steps of Adam
    for name, values in weights.items():
        assert values == pytest.approx(their_weights[name], abs=1e-9)


def test_the_two_agents_were_in_two_network_namespaces(machines):
    if not machines[0].enter:
        pytest.skip("the agents ran on loopback: network namespaces want root and iproute2")
    there = [subprocess.run([*m.enter, "hostname", "-I"], capture_output=True, text=True).stdout for m in machines]
    assert [text.split() for text in there] == [["10.77.0.1"], ["10.77.0.2"]]


# --- one command ------------------------------------------------------------------------------------------------------

WORKER = """
import os, signal
from pathlib import Path

def worker(world, how="returns"):
    print(f"rank {world.rank} of {world.size}: {how}")
    if how == "raises" and world.rank == world.size - 1:
        raise ValueError("planted")
    if how == "dies" and world.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    world.barrier()

def other(world):
    print("the other")
"""


def test_one_command_runs_a_worker_and_its_exit_code_is_right(tmp_path, capfd):
    file = tmp_path / "worker.py"
    file.write_text(WORKER)
    assert main(["run", str(file)]) == 0
    assert capfd.readouterr().out == "rank 0 | rank 0 of 1: returns\n"
    assert main(["run", "--ranks", "2", str(file), "again"]) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == ["rank 0 | rank 0 of 2: again", "rank 1 | rank 1 of 2: again"]
    assert main(["run", f"{file}:other"]) == 0
    assert capfd.readouterr().out == "rank 0 | the other\n"
    assert main(["run", "--ranks", "2", str(file), "raises"]) == 1
    assert "rank 1: ValueError: planted" in capfd.readouterr().err
    assert main(["run", "--ranks", "2", "--restarts", "1", str(file), "dies"]) == 1
    said = capfd.readouterr().err
    assert "restart 1 of 1: rank 0: its process was killed by SIGKILL" in said
    assert main(["run", f"{file}:nothing"]) == 1
    assert "worker.py wants a function nothing(world, ...), got none" in capfd.readouterr().err
    for wrong, told in (
        (["nowhere.py"], "wants a Python file"),
        (["--ranks", "0", str(file)], "ranks as a whole number of at least 1"),
        (["--machine", "0", str(file)], "--machine wants the machines' --addresses"),
        (["--fewest-machines", "1", str(file)], "--fewest-machines wants the machines' --addresses"),
        (["--addresses", "10.0.0.1", str(file)], "wants a Python file"),  # the file was taken for an address
        (["--addresses", "10.0.0.1", "--machine", "1", str(file)], "--machine wants to be 0 to 0"),
        (["--addresses", "10.0.0.1", "--machine", "0", str(file)], "--interface wants the name"),
    ):
        try:
            assert main(["run", *wrong]) == 2
        except SystemExit as ended:
            assert ended.code == 2
            continue
        assert told in capfd.readouterr().err


def test_inside_a_job_the_command_is_a_rank_of_it(tmp_path, free_port, monkeypatch, capsys):  # noqa: F811
    file = tmp_path / "worker.py"
    file.write_text(WORKER)
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (place | {"MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}).items():
        monkeypatch.setenv(name, value)
    try:
        assert main(["run", str(file)]) == 0
        assert main(["run", str(file), "raises"]) == 1
    finally:
        torch.distributed.destroy_process_group()
        atexit.unregister(torch.distributed.destroy_process_group)
    said = capsys.readouterr()
    assert said.out == "rank 0 of 1: returns\nrank 0 of 1: raises\n"
    assert said.err.startswith("rank 0: ValueError: planted")


# --- resource managers ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["job", "My first 'job'"])
def written(request, tmp_path, capsys):
    engine = lab.Torchrun(
        folder=tmp_path / request.param, addresses=["10.0.0.1", "10.0.0.2", "10.0.0.3"], ranks_per_machine=4,
        interface="ib0", max_restarts=3, fewest_machines=2,
    )  # fmt: skip
    return engine.run(print)


def options(job: lab.comm.launched.torchrun.Job, endpoint: str, name: str, machine: int, address: str) -> list[str]:
    return [
        "-m", "torch.distributed.run", "--nnodes=2:3", "--nproc-per-node=4", "--max-restarts=3", "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}:29500", f"--rdzv-id={name}", f"--rdzv-conf=is_host={int(machine == 0)}",
        f"--local-addr={address}", str(job.folder / "job.py"),
    ]  # fmt: skip


def test_the_batch_file_starts_torchrun_once_on_each_node(tmp_path, written):
    """Run, with stand-ins for what Slurm and the machines would do, each of which tells what it was given."""
    subprocess.run(["bash", "-n", written.slurm], check=True)
    stand_ins = {
        "scontrol": 'echo node7; echo node8; echo node9',
        "srun": """[ "$1" = --kill-on-bad-exit=1 ] || exit 9; shift
            for SLURM_NODEID in 0 1 2; do export SLURM_NODEID; "$@" || exit 1; done""",
        "hostname": 'echo "10.1.0.$SLURM_NODEID 192.168.0.1"',
        "python": 'printf "%s\\n" "$GLOO_SOCKET_IFNAME" "$@" ; exit ${FAILS:-0}',
    }  # fmt: skip
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurms = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[7-9]"}
    there = os.environ | slurms | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", written.slurm], capture_output=True, text=True, env=there)
    assert done.returncode == 0, done.stderr
    wanted = [["ib0", *options(written, "node7", "42", machine, f"10.1.0.{machine}")] for machine in range(3)]
    assert done.stdout.splitlines() == [word for words in wanted for word in words]
    assert subprocess.run(["bash", written.slurm], capture_output=True, env=there | {"FAILS": "3"}).returncode == 1
    lines = written.slurm.read_text().splitlines()
    assert "#SBATCH --nodes=3" in lines and "#SBATCH --cpus-per-task=4" in lines
    uncommented = [
        line for before, line in pairwise(lines)
        if line and not line.startswith(("#", "export", "exec", "here", "is_host", "'")) and not before.startswith("#")
    ]  # fmt: skip
    assert uncommented == []  # each line, or a block of them, says what it does


def test_the_kubernetes_job_is_a_pod_per_machine_that_knows_its_number(written):
    service, job = yaml.safe_load_all(written.kubernetes.read_text())
    name = job["metadata"]["name"]
    assert name == service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    assert service["spec"]["selector"] == {"job-name": name} and service["spec"]["clusterIP"] == "None"
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["completionMode"]) == (3, 3, "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"name": "GLOO_SOCKET_IFNAME", "value": "eth0"} in container["env"]
    assert all(isinstance(each.get("value", ""), str) for each in container["env"])  # Kubernetes takes no numbers
    script = container["command"][2].replace("exec python", 'printf "%s\\n"')
    assert container["command"][:2] == ["bash", "-c"]
    for pod in range(2):
        there = {"JOB_COMPLETION_INDEX": str(pod), "POD_IP": f"10.9.0.{pod}", "PATH": os.environ["PATH"]}
        said = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, env=there, check=True).stdout
        assert said.splitlines() == options(written, f"{name}-0.{name}", name, pod, f"10.9.0.{pod}")
    assert container["volumeMounts"][0]["mountPath"] == str(written.folder)


def test_each_machines_command_is_torchruns(written):
    for machine, command in enumerate(written.commands):
        words = shlex.split(command)
        assert words[-11:] == options(written, "10.0.0.1", written.folder.name, machine, f"10.0.0.{machine + 1}")
