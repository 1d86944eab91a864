"""The pages that are read off the code: every public name of the package, and every command with its options."""

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module

import meanstep
from meanstep.program.commands import COMMANDS
from meanstep.program.parsing import flags

# Modules that are public, or that a public name leads to, in the order of the site.
MODULES = {
    "recipes": "Recipes: the methods",
    "times": "Times: pairs of r and t",
    "velocities": "Velocities: targets, tangents, proxies, guidance",
    "objectives": "Objectives: the three identities",
    "rates": "Rates: how the derivative is made",
    "coefficients": "Coefficients and schedules",
    "weights": "Weights of the loss",
    "paths": "Paths between data and noise",
    "couplings": "Couplings of data and noise",
    "samplers": "Samplers",
    "averages": "Averages of weights",
    "fields": "Fields: networks, adapters, exact fields",
    "probes": "Probes: measurements of a field",
    "metrics": "Metrics: distances of samples",
    "tangents": "Tangents: ways to carry a derivative",
}
FURTHER = {
    "fields": ["fields.planar", "fields.curves", "fields.boxes", "fields.isotropic", "fields.flat", "fields.public"],
    "probes": ["probes.maps", "probes.published", "probes.rows"],
}

# Arguments that mean the same wherever a docstring does not say otherwise. `*B` is the shape of the batch, `*E` that of one row.
COMMON = {
    "field": "a callable `u(z, r, t, y)`, such as a network: the average velocity `[*B, *E]` between two times",
    "b": "a `Bridge`: drawn rows with their points, velocities and times, such as `loss.draw(x)[0][1]`",
    "x": "data or samples, `[*B, *E]`; for metrics and laws points `[n, D]`",
    "e": "standard normal noise, `[*B, *E]`",
    "z": "points between data and noise, `[*B, *E]`; for samplers the noise to start from",
    "r": "the earlier times, nearer to the data, `[*B]`, `0 <= r <= t`",
    "t": "the later times, `[*B]`, in [0, 1]: 0 is data, 1 is noise",
    "y": "conditions with leading axes `*B`: a tensor, or tuples, lists and dicts of them; or None",
    "v": "velocities, `[*B, *E]`",
    "w": "directions or tangents, `[*B, *E]`",
    "generator": "a torch generator, from which all random numbers come; None is torch's global one, and for probes seed 0",
    "mask": "true where entries count, over `*B` and further leading axes",
    "dtype": "the type of the numbers",
    "table": "what `probes.moments` returns",
    "chunk": "how many rows go through the network at once: it bounds the memory and changes no result",
    "batch_dims": "the number of axes in `*B`; 1",
}


def named(module: str) -> list[str]:
    """The public names of a module: its `__all__`, or what its source defines, in that order."""
    listed: list[str] | None = getattr(import_module(f"meanstep.{module}"), "__all__", None)
    return list(listed if listed is not None else _defined(module))


def _defined(module: str) -> list[str]:
    """The public classes, functions and constants that a module's source defines."""
    found = []
    for node in ast.parse(inspect.getsource(import_module(f"meanstep.{module}"))).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            each = [one for target in targets for one in (target.elts if isinstance(target, ast.Tuple) else [target])]
            found += [one.id for one in each if isinstance(one, ast.Name) and "TypeVar" not in ast.dump(node)]
    return list(dict.fromkeys(name for name in found if not name.startswith("_")))


def places() -> dict[str, list[str]]:
    """For each page of the reference the dotted names on it. A name of the top that a module has too is told there."""
    pages = {
        module: [f"meanstep.{inside}.{name}" for inside in (module, *FURTHER.get(module, [])) for name in named(inside)]
        for module in MODULES
    }
    elsewhere = {name for module in MODULES for name in named(module)}
    return {"meanstep": [f"meanstep.{name}" for name in meanstep.__all__ if name not in MODULES and name not in elsewhere], **pages}


def pages() -> Iterator[tuple[str, str]]:
    """Path and text of every page of the reference and of the commands."""
    yield "reference/index.md", _contents()
    yield "reference/meanstep.md", _top()
    for module, title in MODULES.items():
        text = f"# {title}\n\n`meanstep.{module}`\n\n{_doc(import_module(f'meanstep.{module}'))}\n\n{_asked(module, 2)}"
        for inside in FURTHER.get(module, []):
            text += f"## `meanstep.{inside}`\n\n{_doc(import_module(f'meanstep.{inside}'))}\n\n{_asked(inside, 3)}"
        yield f"reference/{module}.md", text
    yield "reference/commands.md", _commands()


def _doc(value: object) -> str:
    return inspect.getdoc(value) or ""


def _contents() -> str:
    lines = ["# Reference", "", "Every public name, read off the code. `import meanstep as ms` loads a module when it is used.", ""]
    lines += ["| module | what is in it |", "|---|---|"]
    lines += ["| [meanstep](meanstep.md) | the names that need no module: `ms.Loss`, `ms.jump`, `ms.noise` and others |"]
    for module, title in MODULES.items():
        names = ", ".join(f"`{name}`" for name in named(module)[:8])
        more = ", ..." if len(named(module)) > 8 else ""
        lines.append(f"| [meanstep.{module}]({module}.md) | {title.partition(':')[2].strip() or title}: {names}{more} |")
    lines += ["", "The command line has [its own page](commands.md).", "", "## Arguments that mean the same everywhere", ""]
    lines += ["`*B` is the shape of the batch, often `[B]`, and `*E` that of one row. Where a page says nothing else:", ""]
    lines += ["| argument | meaning |", "|---|---|", *(f"| `{name}` | {meaning} |" for name, meaning in COMMON.items())]
    return "\n".join([*lines, ""])


def _top() -> str:
    text = "# Names at the top\n\n`import meanstep as ms`, then `ms.Loss` and so on. Names that a module has too are told there:\n\n"
    for module in MODULES:
        both = [name for name in meanstep.__all__ if name in named(module)]
        if both:
            links = ", ".join(f"[`ms.{name}`]({module}.md#meanstep.{module}.{name})" for name in both)
            text += f"- {links}: see [meanstep.{module}]({module}.md)\n"
    return text + "\n" + "".join(f"::: {place}\n\n" for place in places()["meanstep"])


def _asked(module: str, level: int) -> str:
    """The lines that mkdocstrings replaces with what it reads off the source, each under a heading of this level."""
    return "".join(f"::: meanstep.{module}.{name}\n    options:\n      heading_level: {level}\n\n" for name in named(module))


# Commands ----------------------------------------------------------------------------------------------------------------------------


def _commands() -> str:
    text = "# Commands\n\nWhat `meanstep COMMAND --help` says, read off the same options. Every command takes `--quiet`.\n\n"
    return text + "".join(_command(name) for name in COMMANDS)


def _command(name: str) -> str:
    command = COMMANDS[name]
    kind = command.load()
    text = f"## `meanstep {name}`\n\n{command.about}\n\n"
    for paragraph in _doc(kind).split("\n\n"):
        said = " ".join(paragraph.split())
        if said.startswith("Examples: "):
            text += "".join(["```sh\n", *(f"{line}\n" for line in said.removeprefix("Examples: ").rstrip(".").split("; ")), "```\n\n"])
        else:
            text += f"{_escaped(said)}\n\n"
    rows = [f"| {_flag(flag.names, flag.metavar)} | {_escaped(flag.help)} |" for flag in flags(kind)]
    return text + "\n".join(["| option | meaning |", "|---|---|", *rows, "", ""])


def _flag(names: tuple[str, ...], metavar: str) -> str:
    spelled = [f"`{name}`" for name in names]
    takes = metavar.replace("|", "\\|").replace("`", "")
    return f"{', '.join(spelled)} `{takes}`" if takes and takes != "None" else ", ".join(spelled) or f"`{takes}`"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[").replace("*", "\\*")
