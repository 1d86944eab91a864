"""`meanstep push`: a hub folder goes up to the Hugging Face hub, with the token that huggingface_hub knows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from meanstep.program.console import UserError, chat, put_json, stage, takes_json
from meanstep.program.export.targets import CARD
from meanstep.program.flags import Json, hinted
from meanstep.program.ranges import Ranged
from meanstep.program.reading import trees
from meanstep.program.reading.files import text
from meanstep.program.runs.hub import check, endpoint, hub, told

PUSHED = ("hub", "diffusers", "onnx")
READ = {
    "hub": "\nread it: meanstep sample hub:{}",
    "diffusers": '\nread it: DiffusionPipeline.from_pretrained("{}", trust_remote_code=True)',
}
"""What reads such a folder from there."""


@dataclass(frozen=True)
class Push(Ranged):
    """Upload what `meanstep export` made to the Hugging Face hub, where hub:owner/name then means it.

    The token is the one that `hf auth login` keeps, or $HF_TOKEN; it is never shown. Nothing is uploaded but the files of the export.

    Examples: meanstep push exported owner/name; meanstep push exported owner/name --private
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="folder", metavar="FOLDER")]]
    """A folder that `meanstep export --to hub` (or diffusers, or onnx) made."""
    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OWNER/NAME")]]
    """What the model is called on the hub; it is made if it is not there."""
    private: bool = False
    """Make it so that others do not see it."""
    message: Annotated[str | None, hinted("The message of the commit.", "what was exported", "TEXT")] = None
    json: Json = None

    def run(self) -> int:
        """Upload. Exit code 0."""
        check(self.name, self.name)
        takes_json(self.json)
        folder = self.folder.expanduser()
        files, record = exported(folder)
        with stage("uploading"):
            url = self._uploaded(folder, files, self.message or _told(record))
        if not put_json(self.json, {"command": "push", "name": self.name, "url": url}):
            chat.print(f"{url}{READ.get(record['target'], '').format(self.name)}", highlight=False, soft_wrap=True, markup=False)
        return 0

    def _uploaded(self, folder: Path, files: list[str], message: str) -> str:
        library = hub("meanstep push")
        api = library.HfApi(endpoint=endpoint())
        try:
            api.create_repo(self.name, private=self.private or None, exist_ok=True)
            if self.private and not api.repo_info(self.name).private:  # one that was there keeps its visibility
                raise UserError(
                    f"--private: {self.name} is there already and others see it: make it private on the hub, or give a new name"
                )
            done = api.upload_folder(repo_id=self.name, folder_path=folder, allow_patterns=files, commit_message=message)
        except UserError:
            raise
        except Exception as error:  # the library raises dozens of kinds, of its own and of the network's
            raise UserError(f"the hub did not take {self.name}: {told(error)}") from None
        return str(getattr(done, "commit_url", done))


def exported(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The files of an export and what its card.json says; `UserError` for another folder, or one with a file missing."""
    try:
        record = trees.entries(text(folder / CARD))
        target, files = record["target"], list(record["files"])
        if not all(isinstance(name, str) for name in files):
            raise TypeError("its files have no names")
        _told(record)
    except (UserError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder} was not made by meanstep export: meanstep export RUN --to hub --out FOLDER makes what can be pushed"
        ) from None
    if target not in PUSHED:
        raise UserError(f"{folder} was exported to {target}, and the hub takes {', '.join(PUSHED)}")
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise UserError(f"{folder} has no {missing[0]}: export it again")
    return [*files, CARD, *(["README.md"] if "README.md" not in files else [])], record


def _told(record: dict[str, Any]) -> str:
    """What was exported, in a line: of a network from Python its name alone."""
    return str(record["name"]) + (f", {record['samples seen']:,} samples seen" if "samples seen" in record else "")
