"""Finds jobs whose worker is gone and puts them where they can go on."""

from tunery.jobs import endings
from tunery.jobs.identity import WorkerIdentity, is_dead_here
from tunery.jobs.resources import Resources
from tunery.store import claims
from tunery.store.database import write


def reap(resources: Resources, me: WorkerIdentity) -> None:
    """Jobs of workers that died on this machine at once, those of silent ones when their lease has run out."""
    now = resources.clock()
    with write(resources.engine) as conn:
        dead = tuple(holder for holder in claims.list_holders(conn) if is_dead_here(holder, me))
        if dead:
            claims.expire_leases(conn, dead)
        for job in claims.requeue_stalled(conn, now=now):
            endings.tell_stalled(conn, job, now=now)
