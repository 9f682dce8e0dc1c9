"""The tables of versions and uploads of files. Apart because `tables.py` is as long as a file may be."""

from sqlalchemy import Column, ForeignKey, Index, String, UniqueConstraint

from tunery.store.columns import counts, created_at, integers, jsons, project_id, seq_and_id, strings, table

file_versions = table(
    "file_versions",
    Column("file_id", String, ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    project_id(),
    strings("dataset_id"),
    integers("number"),
    created_at(),
    strings("parent_id", "source", "user_id", "key_id", null=True),
    counts("num_added", "num_removed", "num_changed"),
    jsons("difference", null=True),
    UniqueConstraint("project_id", "dataset_id", "number"),  # of two who save at once, one does
)

uploads = table(
    "uploads",
    seq_and_id(),
    project_id(),
    created_at(),
    integers("expires_at"),
    strings("filename", "purpose"),
    integers("bytes"),
    strings("mime_type", "status"),
    strings("file_id", null=True),
    integers("file_expires_after_s", null=True),
    Index(None, "status", "expires_at"),
)

upload_parts = table(
    "upload_parts",
    seq_and_id(),
    Column("upload_id", String, ForeignKey("uploads.id", ondelete="CASCADE"), nullable=False, index=True),
    created_at(),
    integers("bytes"),
    strings("blob"),
)
