"""What an eval and a run are made of: checked, and put into the form in which they are kept and given out."""

import uuid
from typing import Any

from tunery.api.evals.schemas import Criterion, DataSource, DataSourceConfig, InputMessages, Source
from tunery.api.graders import grading
from tunery.api.graders.schemas import (
    JudgeMessage,
    LabelModel,
    Python,
    ScoreModel,
    StringCheck,
    TextPart,
    TextSimilarity,
)
from tunery.api.graders.template import variables
from tunery.domain.errors import InvalidRequest
from tunery.domain.json_body import as_list, as_object
from tunery.domain.tenants import Scope
from tunery.texts import say

Json = dict[str, Any]

STORED = {"model", "metadata", "created_after", "created_before", "limit"}
OF_A_SOURCE: dict[str, set[str]] = {  # what each kind of source may hold beside its type
    "file_content": {"content"},
    "file_id": {"id"},
    "stored_completions": STORED,
    "responses": STORED | {"instructions_search", "temperature", "top_p", "tools", "users", "reasoning_effort"},
}
NEEDED = {"file_content": "content", "file_id": "id"}
SOURCES = {
    "jsonl": ("file_content", "file_id"),
    "completions": ("file_content", "file_id", "stored_completions"),
    "responses": ("file_content", "file_id", "responses"),
}
SAMPLING: dict[str, set[str]] = {  # the parameters of requests that a run may set
    "completions": {"temperature", "top_p", "seed", "reasoning_effort", "response_format", "tools"},
    "responses": {"temperature", "top_p", "seed", "reasoning_effort", "text", "tools"},
}
MAX_TOKENS = ("max_completion_tokens", "max_completions_tokens")  # OpenAI's type has the one, its service the other
COMBINED = ("$ref", "allOf", "anyOf", "oneOf", "patternProperties")


# ---- an eval


def wire_config(config: DataSourceConfig) -> Json:
    """As it is given out: `schema` is that of a whole row. Raises InvalidRequest."""
    where = "data_source_config"
    if config.type != "custom":
        if config.item_schema is not None or config.include_sample_schema:
            raise _stray(f"{where}.{'item_schema' if config.item_schema is not None else 'include_sample_schema'}")
        properties: Json = {"item": {"type": "object"}, "sample": {"type": "object"}}
        schema = {"type": "object", "properties": properties, "required": ["item", "sample"]}
        return {"type": config.type, "metadata": config.metadata, "schema": schema}
    if config.item_schema is None:
        raise _missing(f"{where}.item_schema")
    if config.metadata is not None:
        raise _stray(f"{where}.metadata")
    properties = {"item": config.item_schema}
    if config.include_sample_schema:
        properties["sample"] = {"type": "object"}
    return {
        "type": "custom",
        "schema": {"type": "object", "properties": properties, "required": list(properties)},
    }


def check_criteria(criteria: list[Criterion], config: Json) -> None:
    """Raises InvalidRequest for one that could never grade a row."""
    for number, criterion in enumerate(criteria):
        where = f"testing_criteria[{number}]"
        if not criterion.name and not isinstance(criterion, Python):
            raise _missing(f"{where}.name")
        if isinstance(criterion, TextSimilarity) and criterion.pass_threshold is None:
            raise _missing(f"{where}.pass_threshold")
        grading.check(criterion, where)
        if not isinstance(criterion, Python):
            for text in grading.texts(criterion):
                for path in variables(text):
                    check_path(path, config, where)


def check_path(path: str, config: Json, where: str) -> None:
    """Raises InvalidRequest for a place of a template that no row of this eval fills."""
    known = config["schema"]["properties"]
    namespace, _, rest = path.replace("[", ".[").partition(".")
    if namespace not in known:
        raise InvalidRequest(say("error.template_no_sample", name=path[:100]), param=where, code="invalid_value")
    schema, first = as_object(known[namespace]), rest.partition(".")[0]
    fields = as_object(schema.get("properties"))
    is_open = bool(schema.get("additionalProperties")) or any(name in schema for name in COMBINED)
    if first and fields and first not in fields and not is_open:
        names = ", ".join(sorted(fields))[:500]
        message = say("error.template_not_in_schema", name=path[:100], names=names)
        raise InvalidRequest(message, param=where, code="invalid_value")


def wire_criterion(criterion: Criterion) -> Json:
    """As OpenAI gives it out: messages in their long form, `ne` by that name, and an id of its own."""
    sent = criterion.model_dump(exclude_none=True)
    if not criterion.name:
        sent["name"] = criterion.type
    if isinstance(criterion, StringCheck) and criterion.operation == "neq":
        sent["operation"] = "ne"
    if isinstance(criterion, ScoreModel | LabelModel):
        sent["input"] = [_wire_message(message) for message in criterion.input]
    return {**sent, "id": f"{sent['name']}-{uuid.uuid4()}"}


def _wire_message(message: JudgeMessage) -> Json:
    parts = message.content if isinstance(message.content, list) else [message.content]
    wired = [
        {"type": "input_text", "text": part} if isinstance(part, str) else {**part.model_dump(), "type": _type(part)}
        for part in parts
    ]
    return {"type": "message", "role": message.role, "content": wired if len(wired) != 1 else wired[0]}


def _type(part: TextPart) -> str:
    return "output_text" if part.type == "output_text" else "input_text"


# ---- a run


def check_data_source(source: DataSource, config: Json) -> None:
    """Raises InvalidRequest for what cannot be run; what is wrong with a single row is that row's error."""
    where = "data_source"
    if source.source.type not in SOURCES[source.type]:
        supported = ", ".join(f"'{name}'" for name in SOURCES[source.type])
        message = say("error.value_not_supported", value=repr(source.source.type), supported=supported)
        raise InvalidRequest(message, param=f"{where}.source.type", code="invalid_value")
    _check_source(source.source)
    if source.type == "jsonl":
        for name in ("model", "input_messages", "sampling_params"):
            if getattr(source, name) is not None:
                raise _stray(f"{where}.{name}")
        return
    if source.input_messages is not None:
        _check_messages(source.input_messages, config)
    stored = source.source.type not in NEEDED
    if source.model is None and (source.input_messages is not None or source.sampling_params):
        raise _missing(f"{where}.model")
    if source.model is not None and source.input_messages is None and not stored:
        raise _missing(f"{where}.input_messages")
    for name in source.sampling_params or {}:
        if name not in SAMPLING[source.type] and name not in MAX_TOKENS:
            raise _stray(f"{where}.sampling_params.{name}")


def scopes_of(data_source: Json, criteria: list[Json]) -> tuple[Scope, ...]:
    """What a key needs for a run: beside the right to evals, that to what it reads and to the models it asks."""
    reads = {"file_id": Scope.FILES_READ, "stored_completions": Scope.MODELS_READ, "responses": Scope.MODELS_READ}
    kind = data_source["source"]["type"]
    asks = data_source.get("model") or any(
        "model" in each or each.get("evaluation_metric") == "cosine" for each in criteria
    )
    wanted = (Scope.EVALS_WRITE, reads.get(kind), Scope.MODELS_REQUEST if asks else None)
    return tuple(scope for scope in wanted if scope is not None)


def _check_source(source: Source) -> None:
    where = "data_source.source"
    for name in type(source).model_fields:
        if name != "type" and getattr(source, name) is not None and name not in OF_A_SOURCE[source.type]:
            raise _stray(f"{where}.{name}")
    needed = NEEDED.get(source.type)
    if needed is not None and getattr(source, needed) is None:
        raise _missing(f"{where}.{needed}")
    if source.content == []:
        raise InvalidRequest(say("error.run_without_rows"), param=f"{where}.content", code="invalid_value")


def _check_messages(messages: InputMessages, config: Json) -> None:
    where = "data_source.input_messages"
    given = messages.template if messages.type == "template" else messages.item_reference
    if given is None:
        raise _missing(f"{where}.{messages.type}")
    if messages.item_reference is not None:
        check_path(messages.item_reference, config, f"{where}.item_reference")
    for number, message in enumerate(messages.template or ()):
        for path in variables(message.text):
            if path.partition(".")[0].partition("[")[0] != "item":
                param = f"{where}.template[{number}]"
                raise InvalidRequest(
                    say("error.template_only_item", name=path[:100]), param=param, code="invalid_value"
                )
            check_path(path, config, f"{where}.template[{number}]")


def wire_data_source(source: DataSource) -> Json:
    """As it is given out: messages in their long form, and null where nothing is sampled otherwise."""
    sent = source.model_dump(exclude_unset=True)
    if source.type == "jsonl":
        return {name: sent[name] for name in ("type", "source")}
    if source.input_messages is not None and source.input_messages.template is not None:
        template = [_wire_message(message) for message in source.input_messages.template]
        sent["input_messages"] = {"type": "template", "template": template}
    return {"model": None, "sampling_params": None, **sent}


# ---- rows


def mismatch(item: Json, schema: Json) -> str | None:
    """What a row lacks that its schema asks for, in a sentence. Looks at the properties of the item itself, not inside
    them, and at no pattern: a schema is a client's, and may ask for any amount of work."""
    for name in as_list(schema.get("required")):
        if isinstance(name, str) and name not in item:
            return say("error.row_lacks", name=name[:100])
    for name, wanted in as_object(schema.get("properties")).items():
        types = as_object(wanted).get("type")
        allowed = [kind for kind in (as_list(types) or [types]) if kind in TYPES]
        if name in item and allowed and not any(_is(item[name], kind) for kind in allowed):
            return say("error.row_type", name=name[:100], types=" or ".join(allowed))
    return None


TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind]) and (kind != "integer" or float(value).is_integer())


def _missing(param: str) -> InvalidRequest:
    message = say("error.missing_parameter", param=param)
    return InvalidRequest(message, param=param, code="missing_required_parameter")


def _stray(param: str) -> InvalidRequest:
    return InvalidRequest(say("error.unknown_parameter", param=param), param=param, code="unknown_parameter")
