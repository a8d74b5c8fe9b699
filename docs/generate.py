"""Pages of the reference that follow from the code, and the README's table of results.

    python docs/generate.py            # write those that are not current, and name them
    python docs/generate.py --check    # write nothing; exit code 1 where a page is not current

What a param means is in meanings.yaml. The table of results is of metrics/*.json and stays as it is where there are none;
`make check-demo` compares it.
"""

import contextlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel

from components.cli.main import app
from components.config.params import Params
from components.evaluation.names import in_order
from components.methods import METHODS
from components.pipeline.graph import stage_definition, stage_names

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SHARED = ("TrainingParams", "LoraParams")  # sections that come in several places: described once
FROZEN = ("pretrain_generator", "pretrain_ltx", "pretrain_vlm")
DIMENSIONS = ("VQ", "MQ", "TA", "Overall")
RESULTS = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end -->)", re.DOTALL)
STAGES_ABOUT = (
    "`dvc.yaml` is the pipeline. `dvc repro STAGE` runs a stage and what it needs; its command runs it alone. "
    "A stage runs again when its data, its params or the code that it imports changes; `dvc.yaml` lists that code."
)
MADE = "<!-- Made by docs/generate.py: edit the code or docs/meanings.yaml, then `make docs-pages`. -->\n"


def pages() -> dict[Path, str]:
    """Each generated page's path and the text that it should hold."""
    return {
        DOCS / "reference/cli.md": cli_page(),
        DOCS / "reference/params.md": params_page(),
        DOCS / "reference/stages.md": stages_page(),
    }


def readme() -> str:
    """The README with the table of results of metrics/, or as it is where there is no run of profile shapes."""
    text, table = (ROOT / "README.md").read_text(), results_table(ROOT / "metrics")
    return text if table is None else RESULTS.sub(lambda _: table, text)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) for each command of the program, groups left out."""
    for name, command in getattr(group, "commands", {}).items():
        if getattr(command, "commands", None):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def cli_page() -> str:
    lines = [
        MADE,
        "# Command line",
        "",
        "`reelign COMMAND --help` prints the same. Exit codes: [Exit codes](exit-codes.md).",
        "",
    ]
    for words, command in commands(typer.main.get_command(app)):
        usage = " ".join(["reelign", *words])
        arguments = [option for option in command.params if option.param_type_name == "argument"]
        options = [option for option in command.params if option.param_type_name == "option" and option.name != "help"]
        places = " ".join(shown_argument(option) for option in arguments)
        lines += [f"## `{usage}`", "", f"```text\n{' '.join(filter(None, [usage, '[OPTIONS]', places]))}\n```", ""]
        lines += [plain(command.help or ""), ""]
        if command.epilog:
            lines += ["```sh", command.epilog.removeprefix("Example: "), "```", ""]
        if arguments:
            lines += ["| argument | meaning |", "|---|---|"]
            lines += [f"| `{shown_argument(option)}` | {cell(help_of(option))} |" for option in arguments] + [""]
        if options:
            lines += ["| option | value | default | meaning |", "|---|---|---|---|"]
            lines += [f"| {option_row(option)} |" for option in options] + [""]
    return "\n".join(lines)


def shown_argument(option: Any) -> str:
    name = (option.metavar or option.name).upper() + ("..." if option.nargs == -1 else "")
    return name if option.required else f"[{name}]"


def option_row(option: Any) -> str:
    names = " / ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else value_of(option)
    if isinstance(option.show_default, str):
        default = option.show_default
    elif option.required:
        default = "**required**"
    elif option.default in (None, False, ()) or callable(option.default):
        default = ""
    else:
        default = f"`{option.default}`"
    return " | ".join([names, value, default, cell(help_of(option))])


def value_of(option: Any) -> str:
    kind = option.type_descriptor.annotation
    kind = next((part for part in get_args(kind) if get_origin(kind) is list), kind)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(kind))
    found = {str: "text", Path: "path", int: "integer", float: "number"}[kind]
    limits = [f"{said} {value}" for said, value in (("at least", option.min), ("at most", option.max)) if value is not None]
    return ", ".join([found, *limits, *(["repeatable"] if option.multiple else [])])


def help_of(option: Any) -> str:
    variable = f" Environment: `{option.envvar}`." if getattr(option, "envvar", None) else ""
    return (option.help or "").strip() + variable


def plain(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip()))


def cell(text: str) -> str:
    return plain(text).replace("|", "\\|")


def params_page() -> str:
    meanings = yaml.safe_load((DOCS / "meanings.yaml").read_text())
    shapes = yaml.safe_load((ROOT / "infra/profiles/shapes.yaml").read_text())
    used: set[tuple[str, str]] = set()
    lines = [MADE, "# Params", "", meanings["Params"]["about"], ""]
    lines += ["| key | value | shapes | meaning |", "|---|---|---|---|"]
    sections, top = [], meanings["Params"]
    for key, field in Params.model_fields.items():
        inner = models_of(field.annotation)
        if inner:
            sections += [(key, model, shapes[key], len(inner) > 1) for model in inner]
        else:
            lines.append(f"| `{key}` | {kind_of(Params, key)} | {value_text(shapes[key])} | {top[key]} |")
            used.add(("Params", key))
    lines.append("")
    for key, model, values, several in sections:
        title = f"{key} (kind: {get_args(model.model_fields['kind'].annotation)[0]})" if several else key
        own = values if not several or values["kind"] == get_args(model.model_fields["kind"].annotation)[0] else {}
        lines += section(title, key, model, own, meanings, used)
    for name in SHARED:
        model = next(found for found in every_model(Params) if found.__name__ == name)
        lines += section(f"{name} (in several sections)", "", model, {}, meanings, used)
    written = {(name, key) for name, keys in meanings.items() for key in keys if key != "about"}
    if unknown := sorted(written - used):
        raise SystemExit(f"docs/meanings.yaml: no such param: {unknown}")
    return "\n".join(lines)


def section(title: str, prefix: str, model: type[BaseModel], values: dict, meanings: dict, used: set) -> list[str]:
    """A heading, what the section is for, and a row a key; keys of sections within it come in the same table."""
    about = meanings.get(model.__name__, {}).get("about", "")
    head = ["| key | value | shapes | meaning |", "|---|---|---|---|"]
    return [f"## {title}", "", about, "", *head, *rows(prefix, model, values, meanings, used), ""]


def rows(prefix: str, model: type[BaseModel], values: dict, meanings: dict, used: set) -> Iterator[str]:
    own = meanings.get(model.__name__, {})
    for key, field in model.model_fields.items():
        if key not in own:
            raise SystemExit(f"docs/meanings.yaml: no line for {model.__name__}.{key}")
        used.add((model.__name__, key))
        dotted = f"{prefix}.{key}" if prefix else key
        inner = [found for found in models_of(field.annotation) if found is field.annotation]
        value = values.get(key, "") if isinstance(values, dict) else ""
        if inner and inner[0].__name__ not in SHARED:
            yield f"| `{dotted}` | section | | {own[key]} |"
            yield from rows(dotted, inner[0], value or {}, meanings, used)
        else:
            kind = (
                f"[{inner[0].__name__}](#{inner[0].__name__.lower()}-in-several-sections)" if inner else kind_of(model, key)
            )
            yield f"| `{dotted}` | {kind} | {value_text(value, key in values)} | {own[key]} |"


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation is made of, whatever stands around them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_of(part)]


def every_model(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in models_of(field.annotation):
            yield from every_model(inner)


def value_text(value: Any, given: bool = True) -> str:
    if not given or value == "":
        return ""
    if isinstance(value, dict | list):
        value = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).strip()
    elif value is None or isinstance(value, bool):
        value = {None: "null", True: "true", False: "false"}[value]
    return f"`{value}`"


def kind_of(model: type[BaseModel], key: str) -> str:
    """Type and range of a param, from its JSON schema."""
    schema = model.model_json_schema()
    return kind_words(schema["properties"][key], schema.get("$defs", {}))


def kind_words(found: dict, defs: dict) -> str:
    if "$ref" in found:
        name = found["$ref"].rpartition("/")[2]
        inside = ", ".join(f"`{key}` {kind_words(entry, defs)}" for key, entry in defs[name]["properties"].items())
        return f"({inside})"
    if "anyOf" in found:
        return " or ".join(kind_words(entry, defs) for entry in found["anyOf"])
    if "enum" in found or "const" in found:
        return " or ".join(f"`{value}`" for value in found.get("enum", [found.get("const")]))
    if found.get("type") == "array":
        least = f", at least {found['minItems']}" if "minItems" in found else ""
        if "prefixItems" in found:
            return " and ".join(kind_words(item, defs) for item in found["prefixItems"])
        return f"list of {kind_words(found['items'], defs)}{least}"
    if found.get("type") == "object":
        inside = found.get("additionalProperties")
        return f"map of name to {kind_words(inside, defs)}" if isinstance(inside, dict) and inside else "map"
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
    limits = [
        f"{said} {found[name]:g}"
        for name, said in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if name in found
    ]
    if "pattern" in found:
        limits.append(f"like `{found['pattern']}`")
    return " ".join([words.get(found.get("type"), "anything"), ", ".join(limits)]).strip()


def stages_page() -> str:
    """Of profile shapes, whatever params.yaml is in place."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(ROOT / "dvc.yaml", f"{folder}/dvc.yaml")
        shutil.copyfile(ROOT / "infra/profiles/shapes.yaml", f"{folder}/params.yaml")
        with contextlib.chdir(folder):
            return "\n".join(stage_lines())


def stage_lines() -> list[str]:
    lines = [MADE, "# Stages", "", STAGES_ABOUT, ""]
    for name in [*stage_names(), *FROZEN]:
        found = stage_definition(name)
        data = [dep for dep in found["deps"] if not dep.startswith("components/")]
        lines += [f"## `{name}`", "", f"{found['desc']}.", "", f"- Command: `{found['cmd']}`"]
        lines += [f"- Reads: {listed(data)}", f"- Params: {listed(found['params'])}", f"- Makes: {listed(found['outs'])}"]
        lines.append("")
    return lines


def listed(names: list[Any]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def results_table(metrics: Path) -> str | None:
    """The README's table of results, of a finished run of profile shapes; None where there is none."""
    files = [metrics / name for name in ("alignment.json", "reward_bench.json")]
    if not all(file.exists() for file in files):
        return None
    alignment, bench = (json.loads(file.read_text()) for file in files)
    if alignment["profile"] != "shapes":
        return None
    head = f"| win rate against base, gold judge | {' | '.join(DIMENSIONS)} |"
    lines = [head, "|---|---|---|---|---|"]
    for method, entry in in_order(alignment["methods"], METHODS):
        found = entry["win_rate"]["gold"]
        lines.append(f"| {METHODS[method].title} | {' | '.join(estimate(found[name]) for name in DIMENSIONS)} |")
    found = bench["dimensions"]
    cells = " | ".join(estimate(found[name]["accuracy_without_ties"]) for name in DIMENSIONS)
    lines.append(f"| *VideoReward's accuracy on unseen prompts* | {cells} |")
    return "\n".join(lines) + "\n"


def estimate(found: dict) -> str:
    """69.2% [63, 76]; the value alone where there were too few prompts for an interval."""
    if found["value"] is None:
        return "-"
    limits = "" if found["ci95"] is None else " [{:.0f}, {:.0f}]".format(*(100 * end for end in found["ci95"]))
    return f"{100 * found['value']:.1f}%{limits}"


def main() -> None:
    check = "--check" in sys.argv[1:]
    made = pages() if check else pages() | {ROOT / "README.md": readme()}
    stale = {path: text for path, text in made.items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        if not check:
            path.write_text(text)
        print(f"{path.relative_to(ROOT)} {'is not current: make docs-pages' if check else 'written'}")
    sys.exit(1 if stale and check else 0)


if __name__ == "__main__":
    main()
