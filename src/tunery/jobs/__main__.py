"""`python -m tunery.jobs`: the worker's process (`tunery.launch.worker`) by the name that services were set up with."""

import runpy

if __name__ == "__main__":  # a pool that validates large files imports this module again
    runpy.run_module("tunery.launch.worker", run_name="__main__")
