"""llama.cpp's server for `serve.py`, run by the Python of an environment that has xllamacpp. Prints its address."""

import sys
import time

import xllamacpp


def main() -> None:
    gguf, num_slots, num_threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.n_parallel = num_slots
    params.n_ctx = context * num_slots
    params.cpuparams.n_threads = num_threads
    params.cpuparams_batch.n_threads = num_threads
    server = xllamacpp.Server(params)
    print(f"ready {server.listening_address}", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
