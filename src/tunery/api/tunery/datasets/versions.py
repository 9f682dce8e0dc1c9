"""Datasets that are edited: each save is a new file, which knows what it was made of, by whom, and how it differs."""

from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, Field
from sqlalchemy import Connection

from tunery.api.access import FilesReader, FilesWriter
from tunery.api.body import Body, takes_up_to
from tunery.api.context import Context, ContextDep
from tunery.api.delivery import while_allowed
from tunery.api.routing import Router
from tunery.api.tunery.datasets.reports import ReportCache
from tunery.api.tunery.datasets.routes import find_file, keep_files, work_folder
from tunery.api.tunery.datasets.schemas import FileOut
from tunery.datasets.edit import Difference, Edits, Prefer, Replacement, Step, Where, as_row, carry_over, edit
from tunery.datasets.lines import read_lines
from tunery.domain.errors import InvalidRequest
from tunery.domain.files import MAX_FILE_BYTES, File, FilePurpose, Version
from tunery.domain.numbers import Int
from tunery.domain.tenants import Caller, Scope
from tunery.store import files as store
from tunery.store import tenants, versions
from tunery.store.database import read
from tunery.texts import say

router = Router(prefix="/tunery/v1/files/{file_id}", tags=["Versions"])

MAX_EDITS = 10_000
MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_SHOWN = 20  # rows that a preview shows
MAX_ROW = 20_000  # characters of one that are shown
LOOK_EVERY = 500  # rows


LineNumber = Annotated[Int, Field(ge=1, le=2**62)]


class RowChange(Body):
    line: LineNumber
    row: dict[str, Any]


class RowAdd(Body):
    after: Int = Field(ge=0, le=2**62, description="The line that it follows; 0: it comes first.")
    row: dict[str, Any]


class ReplaceText(Body):
    find: str = Field(min_length=1, max_length=10_000)
    put: str = Field("", max_length=100_000)
    where: Where = Field("system", description="Messages of this role; `system` are the instructions.")
    any_case: bool = False


class EditsMake(Body):
    """By the lines of the file in the path. A row may be any object; what is wrong with it is told by its report."""

    changed: list[RowChange] = Field([], max_length=MAX_EDITS)
    removed: list[LineNumber] = Field([], max_length=MAX_EDITS)
    added: list[RowAdd] = Field([], max_length=MAX_EDITS)
    replace: ReplaceText | None = Field(None, description="In all rows, those above included.")

    def to_edits(self) -> Edits:
        added: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for each in self.added:
            added[each.after].append(each.row)
        replacement = Replacement(**self.replace.model_dump()) if self.replace else None
        removed = frozenset(self.removed)
        changed = {each.line: each.row for each in self.changed if each.line not in removed}
        return Edits(changed, removed, dict(added), replacement)


class VersionCreate(EditsMake):
    onto: str | None = Field(
        None,
        max_length=200,
        description="The newest version, when it is another one: the edits are carried over to it.",
    )
    prefer: Prefer | None = Field(None, description="Of rows that both have touched. Null: they are refused by name.")
    filename: str = Field("", max_length=255, description="Empty: that of the version before.")


class MakerOut(BaseModel):
    user_id: str | None
    name: str | None
    key_id: str | None


class VersionOut(BaseModel):
    object: Literal["tunery.version"] = "tunery.version"
    file: FileOut
    number: int
    dataset: str = Field(description="The id of the first version's file, which may be gone.")
    parent: str | None = Field(description="The file that was edited.")
    source: str | None = Field(description="What the first version was made of, such as the name of a table.")
    created_at: int
    made_by: MakerOut | None
    num_added: int = Field(description="Rows, against the parent.")
    num_removed: int
    num_changed: int


class VersionList(BaseModel):
    object: Literal["list"] = "list"
    data: list[VersionOut]


class RowDifference(BaseModel):
    kind: Literal["changed", "removed", "added"]
    line: int | None = Field(description="Of the version before.")
    new_line: int | None
    before: dict[str, Any] | str | None = Field(description="The row; text where it is no object or very long.")
    after: dict[str, Any] | str | None


class EditsPreview(BaseModel):
    object: Literal["tunery.edits"] = "tunery.edits"
    num_added: int
    num_removed: int
    num_changed: int
    num_replaced: int = Field(description="Places where a text is replaced.")
    rows: list[RowDifference] = Field(description="The first of them.")


class DifferenceList(BaseModel):
    object: Literal["list"] = "list"
    data: list[RowDifference]
    has_more: bool
    next: int | None


# ---- making one
@router.post("/versions/preview")
@takes_up_to(MAX_BODY_BYTES)
def preview_edits(file_id: str, body: EditsMake, caller: FilesWriter, context: ContextDep) -> EditsPreview:
    """What edits come to. Stores nothing; for who may save them."""
    file = _dataset(context, caller, file_id)
    difference, shown, num_replaced = Difference(), [], 0
    with context.shared(ReportCache).turn(file.bytes):
        steps = _steps(context, file, body.to_edits())
        for step in while_allowed(context, caller, Scope.FILES_WRITE, steps):
            difference.note(step)
            num_replaced += step.num_replaced
            if step.kind != "kept" and len(shown) < MAX_SHOWN:
                shown.append(_wire_step(step))
    added, removed, changed = difference.counts
    return EditsPreview(
        num_added=added, num_removed=removed, num_changed=changed, num_replaced=num_replaced, rows=shown
    )


@router.post("/versions")
@takes_up_to(MAX_BODY_BYTES)
def create_version(file_id: str, body: VersionCreate, caller: FilesWriter, context: ContextDep) -> VersionOut:
    """A new version of a dataset: a new file. Refused with the code `newer_version` when there is a newer one than the
    file in the path, unless the edits are to be carried `onto` it."""
    file, edits = _dataset(context, caller, file_id), body.to_edits()
    if body.onto and body.onto != file_id:
        target = _dataset(context, caller, body.onto)
        edits, file = _carried(context, file, target, edits, body.prefer), target
    with context.shared(ReportCache).turn(file.bytes), work_folder(context) as folder:
        path, difference = folder / "rows.jsonl", Difference()
        steps = while_allowed(context, caller, Scope.FILES_WRITE, _steps(context, file, edits))
        _write(steps, path, difference)
        if not any(difference.counts):
            raise InvalidRequest(say("edit.nothing"), param="edits", code="nothing_changed")
        keep = partial(_keep_version, context, caller, file, difference)
        (made,) = keep_files(context, caller, [(body.filename.strip() or file.filename, path)], "edits", also=keep)
    with read(context.database) as conn:
        return _wire(conn, versions.version_of(conn, made), made)


def _dataset(context: Context, caller: Caller, file_id: str) -> File:
    file = find_file(context, caller, file_id)
    if file.purpose is not FilePurpose.FINE_TUNE:
        raise InvalidRequest(say("error.not_a_training_file", file_id=file_id, value=file.purpose.value), param="id")
    return file


def _steps(context: Context, file: File, edits: Edits) -> Generator[Step, None, None]:
    yield from edit(read_lines(context.blobs.get(file.blob)), edits)


def _write(steps: Iterator[Step], path: Path, difference: Difference) -> None:
    size = 0
    with path.open("wb") as out:
        for step in steps:
            difference.note(step)
            if step.kind == "removed":
                continue
            size += len(step.after) + 1
            if size > MAX_FILE_BYTES:
                raise InvalidRequest(say("edit.too_large"), param="edits")
            out.write(step.after + b"\n")


def _carried(context: Context, file: File, target: File, edits: Edits, prefer: Prefer | None) -> Edits:
    """Through all versions from one to the other. Raises InvalidRequest when one between them is gone."""
    way: list[Difference] = []
    with read(context.database) as conn:
        while target.id != file.id:
            version = versions.version_of(conn, target)
            parent = store.find_file(conn, version.parent_id, file.project_id) if version.parent_id else None
            if parent is None or version.difference is None:
                raise InvalidRequest(say("edit.cannot_carry"), param="onto", code="cannot_carry_over")
            way.append(Difference(**version.difference))
            target = parent
    for difference in reversed(way):
        edits = carry_over(edits, difference, prefer)
    return edits


def _keep_version(
    context: Context, caller: Caller, parent: File, difference: Difference, conn: Connection, file: File
) -> None:
    """In the transaction that keeps the file. Raises InvalidRequest when somebody was sooner."""
    of_parent = versions.version_of(conn, parent)
    (newest,) = versions.list_versions(conn, of_parent, limit=1)
    added, removed, changed = difference.counts
    version = Version(
        file.id,
        file.project_id,
        of_parent.dataset_id,
        newest.number + 1,
        file.created_at,
        parent_id=parent.id,
        user_id=caller.user_id,
        key_id=caller.key_id,
        num_added=added,
        num_removed=removed,
        num_changed=changed,
        difference=None if difference.is_scattered else asdict(difference),
    )
    if newest.file_id != parent.id or not versions.insert_version(conn, version):
        number = max(newest.number, of_parent.number + 1)  # of two at once, the other's is not seen yet
        raise InvalidRequest(say("edit.newer_version", number=number), param="id", code="newer_version")


def keep_first(caller: Caller, source: str, conn: Connection, file: File) -> None:
    """The first version of a dataset that was made of something."""
    who = (source, caller.user_id, caller.key_id)
    versions.insert_version(conn, Version(file.id, file.project_id, file.id, 1, file.created_at, None, *who))


# ---- looking at them
@router.get("/versions")
def list_versions(file_id: str, caller: FilesReader, context: ContextDep) -> VersionList:
    """Of the dataset that the file belongs to, newest first. Versions whose file was deleted are left out."""
    with read(context.database) as conn:
        file = store.get_file(conn, file_id, caller.project_id)
        own = versions.version_of(conn, file)
        found = versions.list_versions(conn, own)
        if all(each.file_id != own.file_id for each in found):  # older than all that are listed
            found.append(own)
        kept = [(each, store.find_file(conn, each.file_id, caller.project_id)) for each in found]
        return VersionList(data=[_wire(conn, each, of) for each, of in kept if of is not None])


@router.get("/difference")
def list_differences(
    file_id: str,
    caller: FilesReader,
    context: ContextDep,
    after: Annotated[int, Query(ge=0, le=2**62, description="How many differences are known.")] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> DifferenceList:
    """Row by row, against the version that the file was made of. None for a file that was not made by editing."""
    with read(context.database) as conn:
        file = store.get_file(conn, file_id, caller.project_id)
        version = versions.version_of(conn, file)
        parent = store.find_file(conn, version.parent_id, caller.project_id) if version.parent_id else None
    if version.difference is None:
        return DifferenceList(data=[], has_more=False, next=None)
    wanted = list(islice(_pairs(Difference(**version.difference)), after, after + limit + 1))
    page, has_more = wanted[:limit], len(wanted) > limit
    old = _contents(context, caller, parent, {line for _, line, _ in page if line})
    new = _contents(context, caller, file, {line for *_, line in page if line})
    data = [
        RowDifference(kind=kind, line=line or None, new_line=now or None, before=old.get(line), after=new.get(now))
        for kind, line, now in page
    ]
    return DifferenceList(data=data, has_more=has_more, next=after + limit if has_more else None)


def _pairs(difference: Difference) -> Iterator[tuple[Any, int, int]]:
    """(kind, line before, line after): changed rows, then removed, then added ones."""
    for line, now, num in difference.changed:
        yield from (("changed", line + at, now + at) for at in range(num))
    for line, num in difference.removed:
        yield from (("removed", line + at, 0) for at in range(num))
    for now, num in difference.added:
        yield from (("added", 0, now + at) for at in range(num))


def _contents(context: Context, caller: Caller, file: File | None, wanted: set[int]) -> dict[int, Any]:
    if file is None or not wanted:
        return {}
    found: dict[int, Any] = {}
    steps = (line for line in read_lines(context.blobs.get(file.blob)))
    for line in while_allowed(context, caller, Scope.FILES_READ, steps):
        if line.number in wanted:
            found[line.number] = _shown(line.content)
        if line.number >= max(wanted):
            break
    return found


def _wire_step(step: Step) -> RowDifference:
    return RowDifference.model_validate(
        {
            "kind": step.kind,
            "line": step.line or None,
            "new_line": step.new_line or None,
            "before": _shown(step.before) if step.line else None,
            "after": _shown(step.after) if step.new_line else None,
        }
    )


def _shown(content: bytes) -> Any:
    """The row, or its beginning."""
    if len(content) <= MAX_ROW and (row := as_row(content)) is not None:
        return row
    return content[:MAX_ROW].decode("utf-8", "replace")


def _wire(conn: Connection, version: Version, file: File) -> VersionOut:
    user = tenants.find_user(conn, version.user_id) if version.user_id else None
    maker = None
    if version.key_id is not None:
        maker = MakerOut(
            user_id=version.user_id, name=(user.name or user.email) if user else None, key_id=version.key_id
        )
    about = {name: getattr(version, name) for name in ("number", "source", "created_at")}
    counts = {name: getattr(version, name) for name in ("num_added", "num_removed", "num_changed")}
    wired = FileOut.of({**vars(file), "version": version.number})
    return VersionOut(
        file=wired, dataset=version.dataset_id, parent=version.parent_id, made_by=maker, **about, **counts
    )
