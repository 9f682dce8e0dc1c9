"""Versions of datasets: which file was made of which, by whom, and how they differ. Their bytes are files."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, insert, select
from sqlalchemy.exc import IntegrityError

from tunery.domain.files import File, Version
from tunery.store.file_tables import file_versions
from tunery.store.files import find_file
from tunery.store.paging import values_of

MAX_LISTED = 1_000


def insert_version(conn: Connection, version: Version) -> bool:
    """False when the dataset has a version of this number by now."""
    try:
        with conn.begin_nested():
            conn.execute(insert(file_versions).values(asdict(version)))
    except IntegrityError:
        return False
    return True


def version_of(conn: Connection, file: File) -> Version:
    """A file that has none is the first version of its own dataset."""
    row = conn.execute(select(file_versions).where(file_versions.c.file_id == file.id)).first()
    return _first(file) if row is None else _to_version(row)


def numbers_of(conn: Connection, file_ids: Iterable[str]) -> dict[str, int]:
    """Of those among these files that are versions. All others are the first of their own datasets."""
    query = select(file_versions.c.file_id, file_versions.c.number).where(file_versions.c.file_id.in_(list(file_ids)))
    return {row.file_id: row.number for row in conn.execute(query)}


def list_versions(conn: Connection, version: Version, *, limit: int = MAX_LISTED) -> list[Version]:
    """Those that are left of the dataset that this one belongs to, newest first, without their differences."""
    columns = [column for column in file_versions.c if column is not file_versions.c.difference]
    query = (
        select(*columns)
        .where(
            file_versions.c.project_id == version.project_id,
            file_versions.c.dataset_id == version.dataset_id,
        )
        .order_by(file_versions.c.number.desc())
        .limit(limit)
    )
    found = [_to_version(row) for row in conn.execute(query)]
    if len(found) == limit:
        return found
    has_first = any(each.number == 1 for each in found)
    first = None if has_first else find_file(conn, version.dataset_id, version.project_id)
    return [*found, _first(first)] if first else found


def _first(file: File) -> Version:
    return Version(file.id, file.project_id, file.id, 1, file.created_at)


def _to_version(row: Row[Any]) -> Version:
    return Version(**values_of(row))
