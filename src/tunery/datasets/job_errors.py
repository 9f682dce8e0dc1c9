"""A report's first error as a job's `error`, in the words that OpenAI's clients have learnt to read."""

import re

from tunery.datasets.problems import Problem
from tunery.datasets.report import Report
from tunery.domain.jobs import JobError
from tunery.texts import say

_FILE_FORMAT = "invalid_file_format"
_FILE = "invalid_training_file"
_COUNT = "invalid_n_examples"
_MISSING_KEYS = {
    "missing_messages",
    "missing_input",
    "missing_preferred_output",
    "missing_non_preferred_output",
    "missing_completion",
}
_EXTRA_KEYS = {"extra_key", "message_extra_key", "weight_not_allowed", "tool_calls_not_allowed"}
# What OpenAI calls the formats of a file.
_WIRE_FORMATS = {"chat": "fine-tune-chat", "preference": "fine-tune-preference", "completion": "fine-tune-completion"}


def first_job_error(report: Report, file_id: str) -> JobError | None:
    """None when a job accepts the file."""
    errors = [problem for problem in report.problems if problem.severity == "error"]
    if not errors:
        return None
    # The number of examples is only worth a word when each of them is good.
    problem = next((problem for problem in errors if problem.code != "too_few_examples"), errors[0])
    code, message = _text(problem, report, file_id)
    return JobError(code.replace("training", report.role), message, f"{report.role}_file")


def _text(problem: Problem, report: Report, file_id: str) -> tuple[str, str]:
    code, detail = _detail(problem, report, file_id)
    if code == _COUNT:
        return code, detail
    if code == _FILE_FORMAT:
        return code, say(f"job_error.format_{report.role}", detail=detail)
    return code, say(f"job_error.invalid_{report.role}", detail=detail)


def _detail(problem: Problem, report: Report, file_id: str) -> tuple[str, str]:
    match problem.code:
        case "too_few_examples":
            return _COUNT, problem.message
        case "wrong_format":
            return _FILE, say(
                "job_error.wrong_format",
                file=file_id,
                format=_WIRE_FORMATS[problem.value],
                needed=_method_of(problem.value),
                method=report.method,
            )
        case "unknown_format":
            return _FILE, say("job_error.unknown_format")
        case "empty_file" | "binary_file" | "wrong_encoding" | "wrong_line_ends" | "mixed_formats" | "nothing_to_train":
            return _FILE, say("job_error.invalid_format", message=problem.message)
        case "missing_role":
            number = _message_number(problem.path)
            return _FILE, say("job_error.missing_role", example=problem.example, number=number)
        case "invalid_json":
            reason = getattr(problem.message, "params", {}).get("reason", problem.value)
            return _FILE_FORMAT, say(
                "job_error.invalid_json", example=problem.example, reason=reason, line=problem.line
            )
        case code if code in _MISSING_KEYS:
            return _FILE_FORMAT, say("job_error.missing_key", example=problem.example, name=problem.value)
        case code if code in _EXTRA_KEYS:
            return _FILE_FORMAT, say("job_error.extra_key", example=problem.example, name=problem.value)
    if problem.path:
        return _FILE_FORMAT, say(
            "job_error.at_path", example=problem.example, path=problem.path, message=problem.message
        )
    return _FILE_FORMAT, say("job_error.at_example", example=problem.example, message=problem.message)


def _method_of(form: str) -> str:
    return "dpo" if form == "preference" else "supervised"


def _message_number(path: str) -> int:
    """`messages[1]` is message 2."""
    found = re.search(r"\[(\d+)\]", path)
    return int(found[1]) + 1 if found else 1
