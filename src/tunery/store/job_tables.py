"""The tables of what a job leaves behind beside its events. Apart because `tables.py` is as long as a file may be."""

from sqlalchemy import BigInteger, Column, ForeignKey, String

from tunery.store.columns import created_at, integers, strings, table

job_samples = table(
    "job_samples",
    Column("job_id", String, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("prompt", BigInteger, primary_key=True, autoincrement=False),  # its place among the job's
    created_at(),
    strings("answer", "finish_reason"),
    integers("prompt_tokens", "completion_tokens"),
)

trainer_logs = table(
    "trainer_logs",  # the end of the log of a job's newest trainer that failed
    Column("job_id", String, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    created_at(),
    strings("log"),
)
