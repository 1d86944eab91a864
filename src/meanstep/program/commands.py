"""Every command: where it is, and what the list says of it. A command's module is imported when the command is."""

from importlib import import_module
from typing import Any, NamedTuple

from meanstep.program.reproduce.study import kinds


class Command(NamedTuple):
    """`about`: one line for the list of commands; `name` in `module`: a frozen dataclass with the options and `run() -> exit code`.

    A class whose defaults depend on its options has `parse(args)`."""

    about: str
    module: str
    name: str

    def load(self) -> Any:
        """The class. It and what it checks with import no torch: a mistake is told at once."""
        return getattr(import_module(self.module), self.name)


COMMANDS: dict[str, Command] = {
    "train": Command("Train a one-step generator of images, latents or rows.", "meanstep.program.training.command", "Train"),
    "launch": Command("Train under Slurm, on one node or many.", "meanstep.program.training.launch", "Launch"),
    "sample": Command("Make samples with a trained model.", "meanstep.program.sampling.command", "Sample"),
    "couple": Command("Write noise and samples of a model as pairs to train on.", "meanstep.program.sampling.couple", "Couple"),
    "evaluate": Command("Measure how far samples are from data.", "meanstep.program.evaluation.command", "Evaluate"),
    "export": Command(
        "Make a trained model into a page, ONNX, torch.export, diffusers or hub.", "meanstep.program.export.command", "Export"
    ),
    "push": Command("Upload an export to the Hugging Face hub.", "meanstep.program.export.push", "Push"),
    "cache": Command("Crop, resize and encode images once, for training to read.", "meanstep.program.data.command", "MakeCache"),
    "doctor": Command("Examine a network for use as a MeanFlow field: what would break.", "meanstep.program.doctor.command", "Doctor"),
    "diagnose": Command("Measure where the noise of a network's training signal is.", "meanstep.program.diagnose.command", "Diagnose"),
    "verify": Command("Measure the theory: each claim, what was found, a verdict.", "meanstep.program.verify.command", "Verify"),
    **{f"reproduce {word}": Command(about, f"{kind.package}.command", name) for kind in kinds() for word, about, name in kind.commands},
    "reproduce paper": Command("Compare every published number with ours.", "meanstep.program.reproduce.paper.command", "Paper"),
    "report": Command("Write the report of a run's or a sweep's folder again.", "meanstep.program.pages.command", "Report"),
    "compare": Command("Compare runs, or two studies: distances, samples, settings.", "meanstep.program.compare.command", "Compare"),
    "watch": Command("Show the page of a run while it trains, in a browser.", "meanstep.program.watch.command", "Watch"),
    "completion": Command("Print what lets a shell complete commands and options.", "meanstep.program.completion", "Completion"),
}
"""Every command, in the order of the list; two words are a command of a group."""
