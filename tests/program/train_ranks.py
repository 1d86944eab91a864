"""What test_training runs under torchrun or in one process: a few steps of several recipes, the weights written down.

python train_ranks.py FOLDER PARALLEL RECIPE ...
python train_ranks.py --forked FOLDER PARALLEL RECIPE ...

The second is two ranks that this process forks once all is imported, which two processes of torchrun would do once more each.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from meanstep.program.data import ensure
from meanstep.program.runs.config import AveragesConfig, Config, DataConfig, MethodConfig, NetworkConfig, OptimiserConfig, RunConfig
from meanstep.program.training.ranks import ranks
from meanstep.program.training.train import train

METHODS = {
    "meanflow": MethodConfig("meanflow"),
    "coefficient": MethodConfig("coefficient", {"beta": 0.7, "anchor": 0.5}, proxy_decay=0.9),
    "improved_meanflow": MethodConfig("improved_meanflow"),
    "terminal_velocity": MethodConfig("terminal_velocity"),
    "decoupled_meanflow": MethodConfig("decoupled_meanflow"),
}
STEPS, BATCH = 4, 32
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def configuration(name: str, parallel: str = "ddp", steps: int = STEPS, **run: object) -> Config:
    """A tiny run whose batch has four chunks: two ranks accumulate two each."""
    settings = {"log_every": BATCH, "sample_every": 0, "evaluate_every": 0, "save_every": 10**9} | run
    return Config(
        DataConfig("digits"),
        NetworkConfig(options={"patch": 4, "width": 16, "depth": 2, "heads": 2, "head": name == "improved_meanflow"}),
        METHODS[name],
        OptimiserConfig(rate=1e-3, warmup=0),
        AveragesConfig((0.9,)),
        RunConfig(samples=steps * BATCH, batch=BATCH, chunk=BATCH // 4, device="cpu", parallel=parallel, **settings),  # type: ignore[arg-type]
    )


def main(folder: Path, parallel: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    with ranks("cpu") as here:
        cache = ensure("digits") if here.first else None
        here.wait()
        cache = cache or ensure("digits")
        for name in names:
            place = folder / f"{name}-{parallel}-{here.size}"
            if here.first:
                place.mkdir(parents=True, exist_ok=True)
            here.wait()
            state, _ = train(configuration(name, parallel), place, cache, here)
            whole = get_model_state_dict(state.owner.net, options=WHOLE)
            average = get_model_state_dict(state.averages[0].module, options=WHOLE)
            learned = get_model_state_dict(state.owner.loss, options=WHOLE)
            if here.first:
                held = {f"net.{k}": v.contiguous() for k, v in whole.items()} | {f"ema.{k}": v.contiguous() for k, v in average.items()}
                held |= {f"loss.{k}": v.clone() for k, v in learned.items()}
                save_file(held, place / "weights.safetensors")


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[0] == "--forked":
        words = words[1:]
        import torch.distributed.fsdp  # once, not in each
        from forked import forked

        os.environ |= forked(2)
    main(Path(words[0]), words[1], words[2:])
