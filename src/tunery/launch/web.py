"""The process that answers HTTP: the API, with the dashboard on top. `python -m tunery.api` serves the API alone."""

import uvicorn

from tunery import logs, tracing
from tunery.api.app import create_app
from tunery.dashboard.app import mount
from tunery.settings import load_settings


def main() -> None:
    settings = load_settings()
    logs.configure(settings.log_format)
    tracing.configure("tunery-api")
    app = create_app(settings)
    mount(app, settings)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,  # the api's middleware logs each request, with its id
        timeout_graceful_shutdown=5,  # an open page keeps its websocket for ever
    )


if __name__ == "__main__":
    main()
