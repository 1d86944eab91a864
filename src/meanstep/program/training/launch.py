"""`meanstep launch`: the batch script that trains a run or a study under Slurm, written to be read, and handed to sbatch.

One task is one rank, started by srun and not by torchrun: Slurm's signals then reach the ranks themselves, which save and stop, while
torchrun gives them 30 seconds and dies of a SIGUSR1 by itself.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from meanstep.program.console import out
from meanstep.program.errors import UserError, shown
from meanstep.program.flags import hinted
from meanstep.program.parsing import parsed
from meanstep.program.ranges import Ranged, ranged
from meanstep.program.runs.config import Config, checked, chunk
from meanstep.program.training.command import Train

STUDY = ("reproduce", "latents")
TIME = re.compile(r"\d+-\d{1,2}(:\d{2}){0,2}|\d+:\d{2}:\d{2}")
SCRIPT = r"""#!/bin/bash
{settings}

# Made by meanstep launch. One task is one rank; {signal} seconds before the end all get SIGUSR1, save and stop with exit code 138.
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export MASTER_ADDR MASTER_PORT="$((20000 + SLURM_JOB_ID % 20000))" OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}"

# --wait: when a rank has gone, the others have a minute to go; a rank that failed must not leave them waiting for it
srun --kill-on-bad-exit=0 --wait=60 bash -c \
    'RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS" exec "$@"' rank \
    {command}
code=$?
{after}exit "$code"
"""
SBATCH = "Further settings of the batch script, such as account=abc constraint=h100."
BARE = ("contiguous", "exclusive", "hold", "ignore-pbs", "overcommit", "oversubscribe", "reboot", "spread-job", "use-min-nodes", "wait")
"""Settings of sbatch that take no value."""
ARRAY = "Jobs of an array, each of which does its part of reproduce latents; at most one a run."
AGAIN = """if [ "$code" -eq 138 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
"""


@dataclass(frozen=True)
class Launch(Ranged):
    """Train under Slurm on one node or many, or a study's runs as an array of jobs that share its folder.

    What follows -- is the command as without Slurm; it is checked here, before it waits in a queue. --dry-run shows the batch script,
    which needs nothing of meanstep's to be submitted. The job runs in this folder, with this Python. docs/scaling.md
    says more.

    Examples: meanstep launch --nodes 2 --time 24:00:00 --requeue -- train --out runs/mine; meanstep launch --array 12 --gpus-per-node 1 --
    reproduce latents --out runs/study
    """

    nodes: Annotated[int, ranged("INT from 1 to 100000")] = 1
    """Machines."""
    gpus_per_node: Annotated[int, ranged("INT from 0 to 1024")] = 8
    """Accelerators of each, one rank each; 0: one rank each on processors."""
    cpus_per_task: Annotated[int, ranged("INT from 1 to 65536")] = 8
    """Processors of each rank."""
    time: str = "24:00:00"
    """Longest duration, hours:minutes:seconds or days-hours."""
    partition: Annotated[str | None, hinted("The partition.", "the cluster's", "NAME")] = None
    sbatch: Annotated[tuple[str, ...], hinted(SBATCH, "none", "[NAME=VALUE ...]")] = ()
    array: Annotated[int | None, hinted(ARRAY, "one job", "N from 1 to 100000")] = None
    requeue: tyro.conf.FlagCreatePairsOff[bool] = False
    """Queue the job again when its time is over or it is preempted: it goes on from its checkpoint, until it is done."""
    signal: Annotated[int, ranged("INT from 30 to 65535")] = 300
    """Seconds before the end at which the ranks are told to save; longer than a step and a checkpoint take."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what would be made, and make nothing: print the script, submit nothing."""
    command: tyro.conf.Suppress[tuple[str, ...]] = field(default=())

    @classmethod
    def parse(cls, args: Sequence[str]) -> "Launch":
        """The options before --, the command after it."""
        at = list(args).index("--") if "--" in args else len(args)
        return parsed(cls, "launch", args[:at], cls(command=tuple(args[at + 1 :])))

    def run(self) -> int:
        """Print or submit; sbatch's exit code."""
        text = self.script()
        if self.dry_run:
            out.file.write(text)
            return 0
        if shutil.which("sbatch") is None:
            raise UserError("there is no sbatch on this machine: log in to one of the cluster's, or write the script down with --dry-run")
        return subprocess.run(["sbatch"], input=text, text=True, check=False).returncode

    def script(self) -> str:
        """The batch script; `UserError` for what Slurm or the command would refuse."""
        self._check()
        settings = "\n".join(f"#SBATCH --{line}" for line in self._settings())
        command = shlex.join([sys.executable, "-m", "meanstep", *self.command])
        command += f' --part "$SLURM_ARRAY_TASK_ID/{self.array}"' if self.array else ""
        return SCRIPT.format(settings=settings, signal=self.signal, command=command, after=AGAIN if self.requeue else "")

    def _settings(self) -> list[str]:
        return [
            "job-name=meanstep",
            f"nodes={self.nodes}",
            f"ntasks-per-node={self._ranks}",
            *([f"gpus-per-node={self.gpus_per_node}"] if self.gpus_per_node else []),
            f"cpus-per-task={self.cpus_per_task}",
            f"time={self.time}",
            *([f"partition={self.partition}"] if self.partition else []),
            f"signal=USR1@{self.signal}",
            *([f"array=1-{self.array}"] if self.array else []),
            *(["requeue"] if self.requeue else ["no-requeue"]),
            "open-mode=append",
            *self.sbatch,
        ]

    @property
    def _ranks(self) -> int:
        return max(1, self.gpus_per_node)

    def _check(self) -> None:
        if not TIME.fullmatch(self.time):
            raise UserError(f"--time: hours:minutes:seconds such as 24:00:00, or days-hours such as 2-12, got {self.time!r}")
        if self.partition and not re.fullmatch(r"[^\s-]\S*", self.partition):
            raise UserError(f"--partition: one word such as gpu, without dashes before them, got {shown(self.partition)}")
        for line in self.sbatch:
            if not re.fullmatch(r"[a-zA-Z][\w-]*=[^\n]+", line) and line not in BARE:
                raise UserError(
                    f"--sbatch: NAME=VALUE such as account=abc, or one of {', '.join(BARE)}, without dashes before them, got {shown(line)}"
                )
        if self.command[:1] != ("train",) and self.command[:2] != STUDY:
            raise UserError("give the command to launch after --, such as: meanstep launch --nodes 2 -- train --preset digits")
        if self.array and self.command[:2] != STUDY:
            raise UserError("--array: an array does the parts of a study, after -- comes reproduce latents")
        try:
            chunk(self._config().run, self.nodes * self._ranks)
        except UserError as error:
            raise UserError(f"--nodes and --gpus-per-node: {error}" if "dealt" in str(error) else error) from None

    def _config(self) -> Config:
        """What the command would train, or `UserError` as it would say it."""
        if self.command[:2] == STUDY:
            from meanstep.program.reproduce.images.command import Latents

            asked = Latents.parse(self.command[2:])
            if self.array and asked.part is not None:
                raise UserError("--array: it gives each job its part, leave --part out")
            return asked.study().config
        made = Train.parse(self.command[1:])
        return checked(Config(made.data, made.network, made.method, made.optimiser, made.averages, made.run_))
