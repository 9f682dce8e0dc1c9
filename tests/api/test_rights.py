"""What a credential may do follows what its owner is now: every kind of credential × before and after every change."""

from collections.abc import Callable, Iterator
from itertools import product

import pytest
from starlette.routing import Match

from tests.api.conftest import BASE, Api, a_run
from tunery.api.app import ROUTERS
from tunery.api.fine_tuning import permissions
from tunery.api.fine_tuning.schemas import PermissionsCreate
from tunery.api.tunery import aliases
from tunery.api.tunery.aliases import AliasName, AliasSet
from tunery.domain.errors import InvalidRequest
from tunery.domain.jobs import JobStatus
from tunery.domain.tenants import Caller, Role, Scope
from tunery.store import jobs, webhooks
from tunery.store.database import read

ROLES = ("owner", "member", "reader")
ORGANIZATION = "/v1/organization"
CHAT = {"model": "no-such-model", "messages": [{"role": "user", "content": "Hi"}]}
HOOK = {"name": "h", "url": "https://ci.example", "event_types": ["fine_tuning.job.failed"]}

# One representative of every kind of route, by the least level that it needs.
ROUTES = {
    "look": [
        ("GET", "/v1/files", None),
        ("GET", "/v1/fine_tuning/jobs", None),
        ("GET", "/v1/models", None),
        ("GET", "/v1/webhook_endpoints", None),
        ("GET", "/v1/chat/completions", None),
        ("GET", "/v1/responses/resp_none", None),
        ("GET", "/v1/conversations/conv_none/items", None),
        ("GET", "/v1/batches", None),
        ("GET", "/tunery/v1/exports", None),
        ("POST", "/tunery/v1/validations", {"file": "file-none"}),
        ("POST", "/tunery/v1/tables/preview", {"file": "file-none"}),
        ("GET", "/tunery/v1/session", None),
        ("GET", "/tunery/v1/aliases", None),
        ("GET", "/tunery/v1/stored_answers", None),
        ("GET", "/v1/evals", None),
        ("GET", "/tunery/v1/bases", None),
    ],
    "use": [
        ("DELETE", "/v1/files/file-none", None),
        ("POST", "/v1/uploads", {"bytes": 1, "filename": "a", "mime_type": "text/jsonl", "purpose": "fine-tune"}),
        ("POST", "/v1/fine_tuning/jobs", {"model": BASE, "training_file": "file-none"}),
        ("POST", "/v1/chat/completions", CHAT),
        ("POST", "/v1/responses", {"model": "no-such-model", "input": "Hi"}),
        ("POST", "/v1/embeddings", {"model": "no-such-model", "input": "Hi"}),
        ("POST", "/v1/conversations/conv_none/items", {"items": []}),
        ("POST", "/v1/batches/batch_none/cancel", None),
        ("POST", "/v1/fine_tuning/alpha/graders/validate", {"grader": {}}),
        ("POST", "/v1/webhook_endpoints", HOOK),
        ("DELETE", "/tunery/v1/aliases?name=none", None),
        ("POST", "/tunery/v1/stored_answers/dataset", {}),
        ("POST", "/tunery/v1/batches/batch_none/dataset", {}),
        ("POST", "/tunery/v1/tables/dataset", {"file": "file-none"}),
        ("POST", "/tunery/v1/files/file-none/versions", {}),
        ("POST", "/v1/evals/eval_none/runs", a_run()),
        ("DELETE", "/v1/evals/eval_none", None),
        ("POST", "/tunery/v1/files/file-none/versions/preview", {}),
    ],
    "own": [
        ("DELETE", f"/v1/models/ft:{BASE}:x::AbCd1234", None),
        ("GET", "/v1/fine_tuning/checkpoints/none/permissions", None),
    ],
    "administer-look": [
        ("GET", f"{ORGANIZATION}/projects", None),
        ("GET", f"{ORGANIZATION}/audit_logs", None),
        ("GET", "/tunery/v1/organization/base_additions", None),
        ("GET", f"{ORGANIZATION}/usage/embeddings?start_time=0", None),
        ("GET", f"{ORGANIZATION}/projects/proj_none/rate_limits", None),
    ],
    "administer": [
        ("POST", f"{ORGANIZATION}/admin_api_keys", {"name": "x"}),
        ("POST", f"{ORGANIZATION}/users/user-none", {"role": "owner"}),
        ("DELETE", "/tunery/v1/organization/bases/none", None),
    ],
}
MAY = {
    "nothing": set(),  # the key is dead
    "nobody": set(),  # it lives, and may nothing
    "reader": {"look"},
    "member": {"look", "use"},
    "owner": {"look", "use", "own"},
    "admin": set(ROUTES),
}
Level = str
# (role in the organisation, role in the project) of a person with a key for the project.
PERSON: dict[tuple[str, str], Level] = {
    ("owner", "owner"): "admin",
    ("owner", "member"): "member",
    ("owner", "reader"): "reader",
    ("member", "owner"): "owner",
    ("member", "member"): "member",
    ("member", "reader"): "reader",
    ("reader", "owner"): "owner",
    ("reader", "member"): "member",
    ("reader", "reader"): "reader",
}


def post(api: Api, path: str, body: object = None, secret: str | None = None) -> dict:
    headers = api.as_key(secret) if secret else {}
    answer = api.client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, f"{path}: {answer.text}"
    return answer.json()


def delete(api: Api, path: str) -> None:
    assert api.client.delete(path).status_code == 200, path


class Person:
    """Somebody with a role in the organisation and in a project of their own, and a key for it."""

    def __init__(self, api: Api, number: int | str, organization_role: str, project_role: str) -> None:
        self.api = api
        self.project = post(api, f"{ORGANIZATION}/projects", {"name": f"p{number}"})["id"]
        member = {"email": f"{number}@example.com", "role": project_role}
        self.id = post(api, f"{self.path}/users", member)["id"]
        self.set_organization_role(organization_role)
        key = post(api, f"/tunery{self.path}/api_keys", {"name": "own", "user_id": self.id})
        self.key_id, self.secret = key["id"], key["value"]

    @property
    def path(self) -> str:
        return f"{ORGANIZATION}/projects/{self.project}"

    def helper(self) -> str:
        """The secret of somebody else's key for the project, who may all that members may."""
        return post(self.api, f"{self.path}/service_accounts", {"name": "helper"})["api_key"]["value"]

    def set_organization_role(self, role: str) -> None:
        post(self.api, f"{ORGANIZATION}/users/{self.id}", {"role": role})

    def set_project_role(self, role: str) -> None:
        post(self.api, f"{self.path}/users/{self.id}", {"role": role})

    def narrow(self, *scopes: str) -> None:
        post(self.api, f"{self.path}/api_keys/{self.key_id}", {"scopes": list(scopes)})


def wrong(api: Api, secret: str, allowed: set[str], *, dead: bool = False, each: int | None = None) -> list[str]:
    """The routes whose answer is not what a credential with these rights should get, of `each` level so many."""
    found = []
    for level, routes in ROUTES.items():
        for method, path, body in routes[:each]:
            answer = api.client.request(method, path, json=body, headers=api.as_key(secret))
            expected = 401 if dead else None if level in allowed else 403
            good = answer.status_code == expected if expected else answer.status_code not in (401, 403)
            if not good:
                found.append(f"{method} {path}: {answer.status_code}, not {expected or 'let in'}")
    return found


def check(api: Api, secret: str, level: Level, what: str, each: int | None = None) -> list[str]:
    found = wrong(api, secret, MAY[level], dead=level == "nothing", each=each)
    return [f"{what} ({level}): {route}" for route in found]


def person_changes(organization: str, project: str) -> Iterator[tuple[str, Callable[[Person], None], Level]]:
    """Every change of right, and what the person's key may do after it."""
    for role in ROLES:
        yield f"organization={role}", lambda who, role=role: who.set_organization_role(role), PERSON[role, project]
        yield f"project={role}", lambda who, role=role: who.set_project_role(role), PERSON[organization, role]
    yield "left the project", lambda who: delete(who.api, f"{who.path}/users/{who.id}"), "nothing"
    yield "left the organization", lambda who: delete(who.api, f"{ORGANIZATION}/users/{who.id}"), "nothing"
    yield "archived", lambda who: post(who.api, f"{who.path}/archive") and None, "nothing"
    yield "revoked", lambda who: delete(who.api, f"{who.path}/api_keys/{who.key_id}"), "nothing"
    yield "narrowed to nothing", lambda who: who.narrow(), "nobody"
    yield "expired", expire, "nothing"  # the last: the clock goes on


def expire(who: Person) -> None:
    expire_key(who.api, who.path, who.key_id)


def expire_key(api: Api, project: str, key_id: str) -> None:
    post(api, f"{project}/api_keys/{key_id}", {"expires_in_seconds": 30})
    api.clock.now += 60


PAIRS = list(product(ROLES, ROLES))


# Which level opens which route is asked of every route once a pair; of which level a key is, at each change of a few.
@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_a_persons_key_before_and_after_every_change(api: Api, pair: tuple[str, str]) -> None:
    found, walked = [], 0
    for number, (name, change, after) in enumerate(person_changes(*pair)):
        person = Person(api, number, *pair)
        found += check(api, person.secret, PERSON[pair], f"before {name}", each=1 if number else None)
        post(api, "/v1/webhook_endpoints", HOOK, person.helper())
        change(person)
        found += check(api, person.secret, after, f"after {name}", each=2)
        with read(api.engine) as conn:  # a webhook is its project's: it goes on when a person loses a right
            hears = bool(webhooks.endpoints_for(conn, person.project, "fine_tuning.job.failed"))
        found += [f"after {name}: the webhook hears {hears}"] if hears is (name == "archived") else []
        walked += 1
    assert not found, "\n".join(found)
    assert walked == 12


@pytest.mark.parametrize("role", ["owner", "member"])
def test_a_service_accounts_key_before_and_after_every_change(api: Api, role: str) -> None:
    found = []
    changes: dict[str, tuple[Callable[[str, dict], object], Level]] = {
        "owner": (lambda path, it: post(api, f"{path}/service_accounts/{it['id']}", {"role": "owner"}), "owner"),
        "member": (lambda path, it: post(api, f"{path}/service_accounts/{it['id']}", {"role": "member"}), "member"),
        "deleted": (lambda path, it: delete(api, f"{path}/service_accounts/{it['id']}"), "nothing"),
        "archived": (lambda path, _: post(api, f"{path}/archive"), "nothing"),
        "revoked": (lambda path, it: delete(api, f"{path}/api_keys/{it['api_key']['id']}"), "nothing"),
        "narrowed to nothing": (
            lambda path, it: post(api, f"{path}/api_keys/{it['api_key']['id']}", {"scopes": []}),
            "nobody",
        ),
        "expired": (lambda path, it: expire_key(api, path, it["api_key"]["id"]), "nothing"),
    }
    for name, (change, after) in changes.items():
        path = f"{ORGANIZATION}/projects/{post(api, f'{ORGANIZATION}/projects', {'name': name})['id']}"
        account = post(api, f"{path}/service_accounts", {"name": name})
        post(api, f"{path}/service_accounts/{account['id']}", {"role": role})
        found += check(api, account["api_key"]["value"], role, f"before {name}")
        change(path, account)
        found += check(api, account["api_key"]["value"], after, f"after {name}")
    assert not found, "\n".join(found)


def test_an_admin_key_before_and_after_every_change_of_its_maker(api: Api) -> None:
    """Also a key that was made with that key: no link of the chain outlives the right."""
    found = []
    changes: dict[str, tuple[Callable[[Person], object], Level]] = {
        "made a member": (lambda who: who.set_organization_role("member"), "nothing"),
        "made a reader": (lambda who: who.set_organization_role("reader"), "nothing"),
        "left the organization": (lambda who: delete(api, f"{ORGANIZATION}/users/{who.id}"), "nothing"),
        "left the project": (lambda who: delete(api, f"{who.path}/users/{who.id}"), "admin"),
        "reader of the project": (lambda who: who.set_project_role("reader"), "admin"),
        "project archived": (lambda who: post(api, f"{who.path}/archive"), "admin"),
    }
    for number, (name, (change, after)) in enumerate(changes.items()):
        person = Person(api, number, "owner", "owner")
        first = post(api, f"{ORGANIZATION}/admin_api_keys", {"name": "1"}, person.secret)["value"]
        second = post(api, f"{ORGANIZATION}/admin_api_keys", {"name": "2"}, first)["value"]
        for secret in (first, second):
            found += check(api, secret, "admin", f"before {name}")
        change(person)
        for secret in (first, second):
            found += check(api, secret, after, f"after {name}")
    assert not found, "\n".join(found)


def test_an_admin_key_itself_revoked_or_expired(api: Api) -> None:
    """The one that was made with it is its owner's, and goes on."""
    person = Person(api, 1, "owner", "owner")
    for body, end in (
        ({"name": "1"}, lambda key_id: delete(api, f"{ORGANIZATION}/admin_api_keys/{key_id}")),
        ({"name": "1", "expires_in_seconds": 30}, lambda _: setattr(api.clock, "now", api.clock.now + 60)),
    ):
        first = post(api, f"{ORGANIZATION}/admin_api_keys", body, person.secret)
        second = post(api, f"{ORGANIZATION}/admin_api_keys", {"name": "2"}, first["value"])["value"]
        assert not check(api, first["value"], "admin", "before")
        end(first["id"])
        found = check(api, first["value"], "nothing", "after") + check(api, second, "admin", "made with it, after")
        assert not found, "\n".join(found)


def test_every_group_of_routes_is_among_them(api: Api) -> None:
    """A new group fails here until it is walked before and after each change."""
    walked = {(method, path.partition("?")[0]) for routes in ROUTES.values() for method, path, _ in routes}
    groups: dict[str, bool] = {}
    for router in ROUTERS:
        for route in router.routes:
            asked = [{"type": "http", "path": path, "method": method} for method, path in walked]
            found = any(route.matches(scope)[0] is Match.FULL for scope in asked)
            group = str((getattr(route, "tags", None) or router.tags)[0])
            groups[group] = groups.get(group, False) or found
    assert [group for group, found in groups.items() if not found] == ["Operation"]


def test_a_demoted_owner_cannot_come_back_by_a_key_made_before(api: Api) -> None:
    person = Person(api, 1, "owner", "owner")
    admin = post(api, f"{ORGANIZATION}/admin_api_keys", {"name": "back door"}, person.secret)["value"]
    person.set_organization_role("reader")
    for secret in (admin, person.secret):
        raised = api.client.post(
            f"{ORGANIZATION}/users/{person.id}", json={"role": "owner"}, headers=api.as_key(secret)
        )
        assert raised.status_code in (401, 403)
    assert api.client.get(f"{ORGANIZATION}/users/{person.id}").json()["role"] == "reader"


SCOPES: dict[tuple[Scope, ...], set[str]] = {
    (): set(),
    (Scope.ALL,): set(ROUTES),
    (Scope.ALL_READ,): {"look", "administer-look"},
    (Scope.MANAGEMENT_READ,): {"administer-look"},
}


@pytest.mark.parametrize("scopes", SCOPES, ids=["+".join(scopes) or "none" for scopes in SCOPES])
@pytest.mark.parametrize("how", ["made", "narrowed"])
def test_scopes_grant_what_they_name_and_an_empty_list_nothing(api: Api, scopes: tuple[Scope, ...], how: str) -> None:
    person = Person(api, 1, "owner", "owner")
    secret = person.secret
    if how == "narrowed":
        person.narrow(*scopes)
    else:
        body = {"name": "n", "user_id": person.id, "scopes": list(scopes)}
        secret = post(api, f"/tunery{person.path}/api_keys", body)["value"]
    found = []
    for level, routes in ROUTES.items():
        if level == "own":  # asks for a scope that looks and for the role: neither here nor there
            continue
        for method, path, body in routes:
            status = api.client.request(method, path, json=body, headers=api.as_key(secret)).status_code
            if (status not in (401, 403)) is not (level in SCOPES[scopes]):
                found.append(f"{method} {path}: {status}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("unknown", ["api.everything", "", "api.files", "API.ALL", "*", "api.all "])
def test_an_unknown_scope_is_refused_wherever_scopes_are_given(api: Api, unknown: str) -> None:
    person = Person(api, 1, "member", "member")
    account = post(api, f"{person.path}/service_accounts", {"name": "ci"})
    for path, body in {
        f"/tunery{person.path}/api_keys": {"name": "n", "user_id": person.id},
        f"{person.path}/api_keys/{person.key_id}": {},
        f"{person.path}/service_accounts/{account['id']}/api_keys": {"name": "n"},
    }.items():
        refused = api.client.post(path, json={**body, "scopes": ["api.files.read", unknown]})
        assert refused.status_code == 400 and "scopes" in refused.json()["error"]["param"], refused.text


def test_a_restricted_key_gives_nobody_more_than_it_has(api: Api) -> None:
    person = Person(api, 1, "owner", "owner")
    person.narrow(Scope.MANAGEMENT_WRITE, Scope.MANAGEMENT_READ)
    headers = api.as_key(person.secret)
    account = post(api, f"{person.path}/service_accounts", {"name": "ci", "create_service_account_only": True})
    tries: list[tuple[str, dict]] = [
        (f"{ORGANIZATION}/admin_api_keys", {"name": "x"}),
        (f"/tunery{person.path}/api_keys", {"name": "x", "user_id": person.id}),
        (f"/tunery{person.path}/api_keys", {"name": "x", "user_id": person.id, "scopes": ["api.files.read"]}),
        (f"{person.path}/api_keys/{person.key_id}", {"scopes": ["api.all"]}),
        (f"{person.path}/service_accounts", {"name": "x"}),
        (f"{person.path}/service_accounts/{account['id']}/api_keys", {"name": "x"}),
    ]
    for path, body in tries:
        refused = api.client.post(path, json=body, headers=headers)
        assert refused.status_code == 403 and refused.json()["error"]["code"] == "missing_scope", f"{path} {body}"
    granted = {"name": "x", "user_id": person.id, "scopes": ["api.management.read"]}
    assert api.client.post(f"/tunery{person.path}/api_keys", json=granted, headers=headers).status_code == 200


def test_an_archived_project_takes_nothing_new(api: Api) -> None:
    person = Person(api, 1, "member", "owner")
    account = post(api, f"{person.path}/service_accounts", {"name": "ci"})
    post(api, f"{person.path}/archive")
    other = Person(api, 2, "member", "member")
    for path, body in {
        person.path: {"name": "renamed"},
        f"{person.path}/users": {"user_id": other.id, "role": "owner"},
        f"{person.path}/users/{person.id}": {"role": "reader"},
        f"{person.path}/service_accounts": {"name": "late"},
        f"{person.path}/service_accounts/{account['id']}": {"role": "owner"},
        f"{person.path}/service_accounts/{account['id']}/api_keys": {"name": "late"},
        f"/tunery{person.path}/api_keys": {"name": "late", "user_id": person.id},
        f"{person.path}/spend_limit": {"currency": "USD", "interval": "month", "threshold_amount": 100},
    }.items():
        refused = api.client.post(path, json=body)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "project_archived", path
    admin = {"openai-project": person.project} | api.as_key(api.make_key(project_id=None, is_admin=True))
    assert api.client.get("/v1/files", headers=admin).status_code == 401


@pytest.mark.parametrize("act", ["set", "revert", "share"])
def test_an_archived_project_takes_no_alias_and_no_permission_from_a_request_under_way(api: Api, act: str) -> None:
    """As one whose key was looked at before the project was archived."""
    person = Person(api, 1, "member", "owner")
    caller = Caller("key_a", api.organization_id, person.project, person.id, Role.OWNER)
    model = api.make_model(project_id=person.project).name
    for target in (BASE, model):
        aliases.set_alias(AliasSet(name="mine", target=target), caller, api.context)
    post(api, f"{person.path}/archive")
    with pytest.raises(InvalidRequest) as caught:
        if act == "set":
            aliases.set_alias(AliasSet(name="other", target=BASE), caller, api.context)
        elif act == "share":
            permissions.create_permissions(model, PermissionsCreate(project_ids=[api.project_id]), caller, api.context)
        else:
            aliases.revert_alias(AliasName(name="mine"), caller, api.context)
    assert caught.value.code == "project_archived"


def test_a_key_that_slipped_into_an_archived_project_is_dead(api: Api) -> None:
    """As a request would leave it that had passed the check before the project was archived."""
    person = Person(api, 1, "member", "owner")
    post(api, f"{person.path}/archive")
    for values in ({"user_id": person.id}, {"user_id": None}, {"is_admin": True}):
        secret = api.make_key(project_id=person.project, role=Role.OWNER, **values)
        assert api.client.get("/v1/files", headers=api.as_key(secret)).status_code == 401


def test_archiving_a_project_cancels_its_jobs_and_silences_its_webhooks(api: Api) -> None:
    person = Person(api, 1, "member", "owner")
    post(api, "/v1/webhook_endpoints", HOOK, person.secret)
    unfinished = (JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED)
    made = [api.make_job(project_id=person.project, status=status) for status in unfinished]
    done = api.make_job(project_id=person.project, status=JobStatus.SUCCEEDED)
    elsewhere = api.make_job()
    post(api, f"{person.path}/archive")
    with read(api.engine) as conn:
        ended = [jobs.get_job(conn, job.id) for job in made]
        assert jobs.get_job(conn, done.id).status is JobStatus.SUCCEEDED
        assert jobs.get_job(conn, elsewhere.id).status is JobStatus.QUEUED
        assert webhooks.endpoints_for(conn, person.project, "fine_tuning.job.failed") == ()
    assert [job.status for job in ended] == [JobStatus.CANCELLED] * 4
