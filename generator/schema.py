"""JSON Schemas of the specs, for editors."""

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from generator.notice import NOTICE, seal
from generator.strict import StrictModel


class _Untitled(GenerateJsonSchema):
    """Without titles, which only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema(model: type[StrictModel]) -> str:
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": NOTICE,
        **model.model_json_schema(schema_generator=_Untitled),
    }
    return seal(json.dumps(document, indent=2) + "\n")
