"""`python -m tests.dashboard.server`: the api with the dashboard mounted, on the settings of its environment."""

import uvicorn

from tunery.api.app import create_app
from tunery.dashboard.app import mount
from tunery.domain.clock import system_clock
from tunery.settings import load_settings
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, migrate, write


def main() -> None:
    settings = load_settings()
    engine = connect(settings.resolved_database_url)
    migrate(engine)
    with write(engine) as conn:
        bootstrap(conn, clock=system_clock, key=settings.api_key.get_secret_value() if settings.api_key else None)
    app = create_app(settings)
    mount(app, settings)
    uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
