"""Models that take a file word for word or refuse it: no coercion, no unknown keys, every refusal with its place."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from generator import located_yaml
from generator.problems import BadFile, KeyPath, Problem

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class StrictModel(BaseModel):
    model_config = STRICT


Model = TypeVar("Model", bound=StrictModel)

# A key, what was found there, and what is allowed: for what takes more than one value to judge.
Contradiction = tuple[KeyPath, str, str]


@dataclass(frozen=True)
class Allowed:
    """Says in words what a type of whole numbers or words allows: in errors, and in the JSON Schema for editors."""

    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if type(value) in (int, str):  # Literal[1] would take True and 1.0
                with suppress(ValidationError):
                    return inner(value)
            raise PydanticCustomError("not_allowed", "{allowed}", {"allowed": self.words})

        return core_schema.no_info_wrap_validator_function(validate, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "description": self.words}


def load(path: Path, model: type[Model], contradictions: Callable[[Model], Iterable[Contradiction]]) -> Model:
    """The file's data as a `model`. Raises BadFile with all that is wrong; contradictions only in well-formed data."""
    located = located_yaml.read(path)
    try:
        loaded = model.model_validate(located.data)
    except ValidationError as error:
        raise BadFile(path, _first_per_key([*located.problems, *_problems(error, located, model)])) from error
    found = [_locate(located, *contradiction) for contradiction in contradictions(loaded)]
    if located.problems or found:
        raise BadFile(path, _first_per_key([*located.problems, *found]))
    return loaded


def _first_per_key(problems: Iterable[Problem]) -> Iterable[Problem]:
    return {problem.key: problem for problem in reversed(list(problems))}.values()


def _locate(located: located_yaml.Located, key: KeyPath, found: str, allowed: str) -> Problem:
    """At the value of the key, or of the nearest one around it that stands in the file."""
    around = key
    while around and around not in located.values:
        around = around[:-1]
    line, column = located.values.get(around, (1, 1))
    return Problem(line, column, key, found, allowed)


def _problems(error: ValidationError, located: located_yaml.Located, model: type[StrictModel]) -> Iterator[Problem]:
    for details in error.errors(include_url=False):
        key: KeyPath = details["loc"]
        if details["type"] == "extra_forbidden":
            keys = ", ".join(_keys_of(model.model_json_schema(), key[:-1]))
            yield Problem(*located.keys[key], key, "an unknown key", f"the keys {keys}")
        elif details["type"] == "missing":
            yield _locate(located, key, "nothing", "this key is required")
        else:
            yield _locate(located, key, located_yaml.describe(details["input"]), _allowed(details))


def _allowed(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    match details["type"]:
        case "not_allowed":
            return str(context["allowed"])
        case "list_type":
            return "a list"
        case "model_type" | "dict_type":
            return "a mapping"
        case "too_short":
            return f"at least {context['min_length']} item"
        case "bool_type":
            return "true or false"
        case _:
            return details["msg"]


def _keys_of(schema: dict[str, Any], path: KeyPath) -> list[str]:
    """The keys that a JSON Schema has at a path."""
    node = schema
    for part in path:
        node = _resolved(schema, node)
        node = node["items"] if isinstance(part, int) else node["properties"][part]
    return list(_resolved(schema, node)["properties"])


def _resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    reference = cast("str | None", node.get("$ref"))
    return node if reference is None else schema["$defs"][reference.removeprefix("#/$defs/")]
