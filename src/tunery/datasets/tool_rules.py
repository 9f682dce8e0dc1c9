"""Definitions of tools in an example: `tools`, or `functions` as the first function API called them."""

import re
from typing import Any

from tunery.datasets.problems import Findings, shown
from tunery.datasets.tidy import is_absent
from tunery.texts import say

MAX_FUNCTIONS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEYS = {"name", "description", "parameters", "strict"}


def check_tools(holder: dict[str, Any], path: str, findings: Findings) -> set[str] | None:
    """The defined names; None when they cannot be known, so that calls are not held against them."""
    parallel = holder.get("parallel_tool_calls")
    if not is_absent(parallel) and not isinstance(parallel, bool):
        findings.add(
            "invalid_parallel_tool_calls", f"{path}parallel_tool_calls", say("problem.invalid_parallel_tool_calls")
        )
    tools, functions = (None if is_absent(holder.get(key)) else holder[key] for key in ("tools", "functions"))
    if tools is not None and functions is not None:
        findings.add("functions_and_tools", f"{path}functions", say("problem.functions_and_tools"))
        return None
    if functions is not None:
        return _check_functions(functions, f"{path}functions", findings)
    if tools is None:
        return set()
    if not isinstance(tools, list):
        findings.add("tools_not_a_list", f"{path}tools", say("problem.tools_not_a_list"))
        return None
    names = [_check_tool(tool, f"{path}tools[{i}]", findings) for i, tool in enumerate(tools)]
    return _unique(names, f"{path}tools", findings)


def _check_functions(functions: Any, path: str, findings: Findings) -> set[str] | None:
    if not isinstance(functions, list) or not 1 <= len(functions) <= MAX_FUNCTIONS:
        findings.add("invalid_functions", path, say("problem.invalid_functions", most=MAX_FUNCTIONS))
        return None
    names = [_check_function(function, f"{path}[{i}]", findings) for i, function in enumerate(functions)]
    return _unique(names, path, findings)


def _check_tool(tool: Any, path: str, findings: Findings) -> str | None:
    if not isinstance(tool, dict) or tool.get("type") != "function" or tool.keys() - {"type", "function"}:
        findings.add("invalid_tool", path, say("problem.not_a_function", tool=shown(tool)))
        return None
    return _check_function(tool.get("function"), f"{path}.function", findings)


def _check_function(function: Any, path: str, findings: Findings) -> str | None:
    if not isinstance(function, dict):
        findings.add("invalid_tool", path, say("problem.tool_not_an_object"))
        return None
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        findings.add("invalid_tool", f"{path}.name", say("problem.tool_name", name=shown(name)))
        return None
    if extra := sorted(function.keys() - _KEYS):
        findings.add("invalid_tool", f"{path}.{extra[0][:60]}", say("problem.extra_key", key=shown(extra[0])))
    if function.get("parameters") is not None and not isinstance(function["parameters"], dict):
        findings.add("invalid_tool", f"{path}.parameters", say("problem.tool_parameters"))
    if function.get("description") is not None and not isinstance(function["description"], str):
        findings.add("invalid_tool", f"{path}.description", say("problem.tool_description"))
    return name


def _unique(names: list[str | None], path: str, findings: Findings) -> set[str] | None:
    known = [name for name in names if name is not None]
    for name in sorted({name for name in known if known.count(name) > 1}):
        findings.add("duplicate_tool", path, say("problem.duplicate_tool", name=shown(name)), value=name)
    return set(known) if len(known) == len(names) else None
