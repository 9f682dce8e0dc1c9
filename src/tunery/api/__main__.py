"""`python -m tunery.api`: the api alone, on the settings of its environment."""

from tunery import http_server, logs, private, tracing
from tunery.api.app import create_app
from tunery.settings import load_settings, told_in_a_sentence
from tunery.store.bootstrap import set_up


@told_in_a_sentence()
def main() -> None:
    settings = load_settings()
    private.keep(settings.home)
    logs.configure(settings.log_format)
    tracing.configure("tunery-api")
    set_up(settings)
    http_server.serve(create_app(settings), settings)


if __name__ == "__main__":
    main()
