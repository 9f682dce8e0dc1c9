"""`python -m tunery.api`: the api alone, on the settings of its environment."""

from tunery import http_server, logs, private, tracing
from tunery.api.app import create_app
from tunery.settings import load_settings, told_in_a_sentence
from tunery.store.database import migrate, open_database


@told_in_a_sentence()
def main() -> None:
    settings = load_settings()
    private.keep(settings.home)
    logs.configure(settings.log_format)
    tracing.configure("tunery-api")
    migrate(open_database(settings))
    config = http_server.configure(
        create_app(settings),
        keep_alive_s=settings.keep_alive_s,
        stop_within_s=10,
        host=settings.host,
        port=settings.port,
    )
    http_server.Server(config).run()


if __name__ == "__main__":
    main()
