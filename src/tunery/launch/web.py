"""The process that answers HTTP: the API, with the dashboard on top. `python -m tunery.api` serves the API alone.

It imports in `main` what takes seconds: every process that this one starts, to compare texts or to check data, imports
this module again. Apart because it is a program.
"""

import shutil

from tunery.settings import load_settings, told_in_a_sentence


@told_in_a_sentence()
def main() -> None:
    from tunery import http_server, logs, private, tracing
    from tunery.api.app import create_app
    from tunery.dashboard.app import mount
    from tunery.launch.dashboard_values import DatabaseValues
    from tunery.store.bootstrap import set_up

    settings = load_settings()
    private.keep(settings.home)
    shutil.rmtree(settings.home / "dashboard", ignore_errors=True)  # where earlier versions kept sessions
    logs.configure(settings.log_format)
    tracing.configure("tunery-api")
    set_up(settings)
    app = create_app(settings)
    mount(app, settings, DatabaseValues(app.state.context.database))
    http_server.serve(app, settings)


if __name__ == "__main__":
    main()
