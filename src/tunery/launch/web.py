"""The process that answers HTTP: the API, with the dashboard on top. `python -m tunery.api` serves the API alone.

It imports in `main` what takes seconds: every process that this one starts, to compare texts or to check data, imports
this module again. Apart because it is a program.
"""

from tunery.settings import load_settings, told_in_a_sentence


@told_in_a_sentence()
def main() -> None:
    from tunery import http_server, logs, private, tracing
    from tunery.api.app import create_app
    from tunery.dashboard.app import mount

    settings = load_settings()
    private.keep(settings.home)
    logs.configure(settings.log_format)
    tracing.configure("tunery-api")
    app = create_app(settings)
    mount(app, settings)
    http_server.serve(app, settings, stop_within_s=5)  # an open page keeps its websocket for ever


if __name__ == "__main__":
    main()
