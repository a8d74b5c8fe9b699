"""Base types of params sections: frozen, and an unknown or missing key is an error that names it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.errors import BadInput

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Dimension = str
Dtype = Literal["float32", "bfloat16"]
Expert = Literal["high_noise", "low_noise"]  # the transformers of a Wan 2.2 A14B pipeline, by their noise levels


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Decoding:
    """How latents become pixels: the whole batch together, clip by clip, or each clip in square tiles of `tile` pixels that
    overlap by a quarter and are blended there."""

    decode: Literal["whole", "sliced", "tiled"] = "whole"
    tile: int = 256


WHOLE = Decoding()


class TrainingParams(Section):
    """One run of components/runtime/training.py. Steps are optimizer steps; the batch is batch_size x accumulation."""

    steps: Count
    batch_size: Count
    accumulation: Count
    learning_rate: Positive
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Literal["constant", "cosine"]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    precision: Literal["fp32", "bf16"]
    log_every: Count
    validate_every: Count
    checkpoint_seconds: Annotated[float, Field(ge=0)]


class LoraParams(Section):
    rank: Count
    alpha: Positive
    targets: list[str]


Offloadable = TypeVar("Offloadable", bound=Any)


def offloadable(section: Offloadable) -> Offloadable:
    """A section with `offload`; ValueError where that has no checkpointed layers to act on."""
    if section.offload and not section.gradient_checkpointing:
        raise ValueError("offload needs gradient_checkpointing: what waits in the host's memory are inputs of such layers")
    return section


Read = TypeVar("Read", bound=Section)


def read_section(path: Path, section: type[Read]) -> Read:
    """A YAML file as a section; BadInput names the line and the key that is unknown, missing, duplicated or wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        root = yaml.compose(text, yaml.CSafeLoader)
        values = yaml.load(text, yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = ", ".join(filter(None, (error.context, error.problem)))
        raise BadInput(path, f"not YAML: {why}", row=mark and mark.line + 1) from error
    except yaml.YAMLError as error:  # a character that YAML forbids
        raise BadInput(path, f"not YAML: {str(error).splitlines()[0]}") from error
    except UnicodeDecodeError as error:
        raise BadInput(path, "not UTF-8 text") from error
    except ValueError as error:  # Python's, passed on by PyYAML: a date of month 13, a number of 5000 digits
        raise BadInput(path, f"a value cannot be read: {error}") from error
    except (LookupError, AttributeError) as error:  # `!!bool maybe`, `!!timestamp x`
        raise BadInput(path, "a value does not match its tag (!!)") from error
    except RecursionError as error:
        raise BadInput(path, "not YAML that can be read: nested too deeply") from error
    if not isinstance(values, dict):
        raise BadInput(path, "holds no keys" if values is None else f"holds {values!r:.40}, not keys with values")
    refuse_doubled(path, root)
    try:
        return section.model_validate(values)
    except ValidationError as error:
        # A misspelt key is both unknown and missing: the line of the unknown one is more useful.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        why = {"extra_forbidden": "unknown key", "missing": "missing key"}.get(first["type"], first["msg"])
        why = why.removeprefix("Value error, ")
        row, key = place_of(root, first["loc"])
        raise BadInput(path, why, row=row, key=key or None) from error


def refuse_doubled(path: Path, node: yaml.Node, done: dict[int, bool] | None = None) -> None:
    """BadInput for a duplicate key, of which YAML would silently use the last, and for an alias that contains itself.
    done: by node id, whether the node's check has ended; an alias is the node that it names."""
    done = {} if done is None else done
    if isinstance(node, yaml.ScalarNode) or done.get(id(node)):
        return
    if id(node) in done:
        raise BadInput(path, "holds an alias of itself", row=node.start_mark.line + 1)
    done[id(node)] = False
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise BadInput(path, f"the key is already in line {seen[key.value]}", row=line, key=str(key.value))
            seen[str(key.value)] = line
            refuse_doubled(path, value, done)
    else:
        for value in node.value:
            refuse_doubled(path, value, done)
    done[id(node)] = True


def place_of(node: yaml.Node, loc: tuple[int | str, ...]) -> tuple[int, str]:
    """(line, dotted key) of pydantic's error location; the line of the section where the key is missing. pydantic also names
    the `kind` of a section (`source.s3.folder`), which is no key."""
    line, names, chosen = node.start_mark.line + 1, [], None
    for part in loc:
        kind = child_of(node, "kind")
        if kind is not None and kind[1].value == part and node is not chosen:
            chosen = node
            continue
        names.append(str(part))
        child = child_of(node, part)
        if child is not None:
            line, node = child
    return line, ".".join(names)


def child_of(node: yaml.Node, part: int | str) -> tuple[int, yaml.Node] | None:
    """(line, node) of an item or of a key's value."""
    if isinstance(node, yaml.SequenceNode):
        items: dict[int | str, tuple[int, yaml.Node]] = {
            place: (item.start_mark.line + 1, item) for place, item in enumerate(node.value)
        }
        return items.get(part)
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next(((key.start_mark.line + 1, value) for key, value in pairs if key.value == part), None)
