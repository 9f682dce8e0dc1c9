"""`python -m tunery.api`: the api alone, on the settings of its environment."""

import uvicorn

from tunery import logs, tracing
from tunery.api.app import create_app
from tunery.settings import load_settings
from tunery.store.database import connect, migrate


def main() -> None:
    settings = load_settings()
    logs.configure(settings.log_format)
    tracing.configure("tunery-api")
    migrate(connect(settings.resolved_database_url))
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        access_log=False,  # our middleware logs each request, with its id
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
